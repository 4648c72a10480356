"""Outlines of basic shapes, as points in unit coordinates: x to the right, y down."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = [
    "Outline",
    "Outlines",
    "arc",
    "blob",
    "bones",
    "box",
    "ellipse",
    "leaves",
    "smooth",
    "spline",
    "star",
    "tube",
    "vector",
]

# A polygon or a polyline, and a stack of them with equally many points each.
Outline = Float[np.ndarray, "n 2"]
Outlines = Float[np.ndarray, "k n 2"]

Number = int | float
# Points, some of which may be arrays.
Points = np.ndarray | Sequence[object]
# One number for all, or one each.
Numbers = Number | Points

TURN = 2 * np.pi
# The angles of a limb's rounded end from its direction.
HALF_TURN = np.linspace(TURN / 4, 3 * TURN / 4, 7)


def vector(x: Number, y: Number) -> Float[np.ndarray, "2"]:
    """A point or an offset."""
    return np.array([x, y], np.float64)


def arc(centre: Points, radius: Numbers, start: float = 0.0, stop: float = TURN, n: int = 32) -> Outline:
    """Part of an ellipse's rim from the angle `start` to `stop`; `radius` is one number or two, for x and y."""
    angles = np.linspace(start, stop, n)
    return np.asarray(centre) + np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.asarray(radius)


def ellipse(centre: Points, radius: Numbers, angle: float = 0.0, n: int = 32) -> Outline:
    """A whole ellipse turned by `angle`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(centre) + _circle(n) * np.asarray(radius) @ np.array([[cos, sin], [-sin, cos]])


@functools.cache
def _circle(n: int) -> Outline:
    """Points around the unit circle."""
    angles = np.arange(n) * (TURN / n)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def box(x0: Number, y0: Number, x1: Number, y1: Number, corner: Number = 0.0) -> Outline:
    """A rectangle, its corners rounded with the radius `corner`."""
    if corner <= 0:
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    corner = min(corner, (x1 - x0) / 2, (y1 - y0) / 2)
    quarters = [
        arc((x, y), corner, start, start + TURN / 4, 5)
        for x, y, start in (
            (x1 - corner, y0 + corner, -TURN / 4),
            (x1 - corner, y1 - corner, 0.0),
            (x0 + corner, y1 - corner, TURN / 4),
            (x0 + corner, y0 + corner, TURN / 2),
        )
    ]
    return np.concatenate(quarters)


def blob(rng: np.random.Generator, roughness: float, n: int = 72, harmonics: int = 9) -> Outline:
    """A closed organic curve about the origin with a radius of about 1: a circle with random Fourier terms."""
    order = np.arange(1, harmonics + 1)
    size = roughness * rng.normal(size=harmonics) / order**1.2
    angles = np.arange(n) * (TURN / n)
    waves = np.cos(order[:, None] * angles + rng.uniform(0, TURN, (harmonics, 1)))
    return _circle(n) * np.maximum(1 + size @ waves, 0.15)[:, None]


def star(tips: int, inner: Number, n_between: int = 1) -> Outline:
    """A star about the origin whose tips lie on the unit circle and whose notches lie at the radius `inner`."""
    radius = np.tile(np.r_[np.ones(n_between), np.full(n_between, inner)], tips)
    return _circle(len(radius)) * radius[:, None]


def spline(knots: Points, per_knot: int = 6, closed: bool = False) -> Float[np.ndarray, "n d"]:
    """A Catmull-Rom curve through the knots, which may carry further columns (radii) along."""
    knots = np.asarray(knots, np.float64)
    ends = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    padded = np.concatenate([ends[0], knots, ends[1]])
    around = np.stack([padded[:-3], padded[1:-2], padded[2:-1], padded[3:]], axis=1)
    curve = (_catmull_rom(per_knot) @ around).reshape(-1, knots.shape[1])
    return curve if closed else np.concatenate([curve, knots[-1:]])


@functools.cache
def _catmull_rom(steps: int) -> Float[np.ndarray, "steps 4"]:
    """Weights of the four knots around a piece of a Catmull-Rom curve at equal steps along it."""
    powers = (np.arange(steps) / steps)[:, None] ** np.arange(4)
    return powers @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2


def smooth(knots: Points, per_knot: int = 6) -> Outline:
    """A closed curve through the knots."""
    return spline(knots, per_knot, closed=True)


def tube(knots: Points, radii: Numbers, per_knot: int = 4) -> Outlines:
    """A limb: a curve through the knots that is as thick as `radii` say, as a stack of convex pieces that overlap."""
    knots = np.asarray(knots, np.float64)
    columns = np.concatenate([knots, np.broadcast_to(np.asarray(radii), len(knots))[:, None]], axis=1)
    curve = spline(columns, per_knot) if len(knots) > 2 else columns
    centre, radius = curve[:, :2], np.maximum(curve[:, 2], 1e-3)
    return bones(centre[:-1], centre[1:], radius[:-1], radius[1:])


def bones(
    start: Float[np.ndarray, "k 2"],
    end: Float[np.ndarray, "k 2"],
    start_radius: Float[np.ndarray, " k"],
    end_radius: Float[np.ndarray, " k"],
) -> Outlines:
    """Straight pieces of limbs with rounded ends."""
    along = end - start
    rim = np.arctan2(along[:, 1], along[:, 0])[:, None] + HALF_TURN
    round_end = np.stack([np.cos(rim), np.sin(rim)], axis=-1)
    back = start[:, None] + round_end * start_radius[:, None, None]
    front = end[:, None] - round_end * end_radius[:, None, None]
    return np.concatenate([back, front], axis=1)


def leaves(base: Points, angle: Points, length: Numbers, slimness: float, pointed: float = 1.0) -> Outlines:
    """Leaves, petals or barbs: one outline for each base point, grown towards its angle.

    Args:
      base: (k, 2) where they are rooted.
      angle: (k,) towards where they grow.
      length: (k,) or one number.
      slimness: width over length.
      pointed: 1 for a lens shape with two tips, less for blunter ones.
    """
    t = np.linspace(0, np.pi, 7)
    x, y = (1 - np.cos(t)) / 2, np.sin(t) ** pointed * slimness / 2
    outline = np.stack([np.r_[x, x[-2:0:-1]], np.r_[y, -y[-2:0:-1]]], axis=-1)
    angle = np.asarray(angle, np.float64)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)], axis=-2)
    scale = np.broadcast_to(np.asarray(length), angle.shape)[:, None, None]
    return np.asarray(base, np.float64)[:, None] + outline @ turn * scale
