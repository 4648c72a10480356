"""Grey textures with the statistics of natural ones: noise of random spectra, coats, wood, leaves, tiles, grass.

Each maker gives a square of `SIDE` pixels. Those made from spectra or periods are periodic, so that crops may wrap.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

__all__ = ["SIDE", "MAKERS", "make_field"]

SIDE = 512

Field = Float32[np.ndarray, "side side"]


def spectral(rng: np.random.Generator, slope: float, stretch: float = 1.0, band: float | None = None) -> Field:
    """Gaussian noise of unit variance.

    Args:
      rng: source of chance.
      slope: its amplitude falls as the frequency to this power; natural images have about 1.
      stretch: how much longer its grains are than wide, in a random direction.
      band: if given, only frequencies near this many cycles a side are kept.
    """
    fy, fx = np.fft.fftfreq(SIDE)[:, None] * SIDE, np.fft.rfftfreq(SIDE)[None] * SIDE
    turn = rng.uniform(0, np.pi)
    along, across = fx * np.cos(turn) + fy * np.sin(turn), fy * np.cos(turn) - fx * np.sin(turn)
    frequency = np.hypot(along * stretch, across) + 1e-6
    amplitude = np.maximum(frequency, 1.0) ** -slope
    if band is not None:
        amplitude *= np.exp(-(np.log2(frequency / band) ** 2) * 4)
    phase = rng.uniform(0, 2 * np.pi, amplitude.shape)
    spectrum = amplitude * np.exp(1j * phase)
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
    return (field / field.std()).astype(np.float32)


def cloud(rng: np.random.Generator) -> Field:
    return spectral(rng, rng.uniform(1.1, 2.2), float(rng.choice([1.0, 1.0, 2.5])))


def grain(rng: np.random.Generator) -> Field:
    return spectral(rng, rng.uniform(0.5, 1.1), float(rng.choice([1.0, 1.0, 3.0, 8.0])))


def coat(rng: np.random.Generator) -> Field:
    """Spots or stripes of an animal: noise of one scale, cut off."""
    pattern = spectral(rng, 0.0, rng.uniform(1, 4), band=rng.uniform(6, 24))
    return np.tanh((pattern + rng.uniform(-1, 1)) * rng.uniform(2, 8)) + 0.25 * grain(rng)


def veins(rng: np.random.Generator) -> Field:
    """Ridges of noise: marble, bark, cracks, folds of cloth."""
    ridges = np.abs(spectral(rng, rng.uniform(1.2, 1.8), rng.uniform(1, 4)))
    return -(ridges ** rng.uniform(0.5, 1.0)) + 0.15 * grain(rng)


def wood(rng: np.random.Generator) -> Field:
    across = np.linspace(0, rng.integers(4, 20), SIDE, endpoint=False)[None]
    warp = spectral(rng, 1.8, 3.0) * rng.uniform(0.2, 0.8)
    return np.sin(2 * np.pi * (across + warp)).astype(np.float32) + 0.5 * spectral(rng, 0.8, 10.0)


def stripes(rng: np.random.Generator) -> Field:
    cycles = rng.integers(-30, 31, 2)
    x, y = np.meshgrid(np.arange(SIDE) / SIDE, np.arange(SIDE) / SIDE)
    wave = np.sin(2 * np.pi * (cycles[0] * x + cycles[1] * y) + 0.4 * spectral(rng, 1.8) * rng.integers(0, 2))
    return np.tanh(wave * rng.uniform(1, 6)).astype(np.float32) + 0.2 * grain(rng)


def weave(rng: np.random.Generator) -> Field:
    """Tartan or knitted cloth: stripes both ways."""
    profile = np.kron(rng.normal(size=(2, 64)), np.ones(8))
    cloth = np.tile(profile[0, : SIDE // 4], 4)[None] + np.tile(profile[1, : SIDE // 4], 4)[:, None]
    x = np.arange(SIDE) * 2 * np.pi / SIDE * 64
    return (cloth + 0.4 * np.sin(x)[None] * np.sin(x)[:, None]).astype(np.float32)


def bricks(rng: np.random.Generator) -> Field:
    rows, columns = int(rng.choice([8, 16, 32])), int(rng.choice([4, 8, 16]))
    h, w = SIDE // rows, SIDE // columns
    tone = rng.normal(size=(rows, columns)) * 0.5 + 1
    wall = np.kron(tone, np.ones((h, w))).astype(np.float32)
    wall[::h] = wall[1::h] = -2
    wall[:, ::w] = wall[:, 1::w] = -2
    for row in range(1, rows, 2) if rng.random() < 0.7 else ():
        wall[row * h : (row + 1) * h] = np.roll(wall[row * h : (row + 1) * h], w // 2, axis=1)
    return cv2.GaussianBlur(wall, (0, 0), 0.8) + 0.3 * grain(rng)


def cells(rng: np.random.Generator) -> Field:
    """Voronoi cells, each of its own grey, with or without dark joints: pebbles, scales, cobbles, panes."""
    seeds = np.full((SIDE, SIDE), 255, np.uint8)
    at = rng.integers(0, SIDE, (int(rng.choice([40, 150, 500])), 2))
    seeds[at[:, 0], at[:, 1]] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    flat = rng.normal(size=int(labels.max()) + 1)[labels]
    return (flat * rng.uniform(0.2, 1) - distance / distance.std() * rng.uniform(0, 1)).astype(np.float32)


def dead_leaves(rng: np.random.Generator) -> Field:
    """Discs and slabs of sizes from a power law over each other: the occlusion statistics of natural scenes."""
    field = np.zeros((SIDE, SIDE), np.float32)
    count = 700
    size = SIDE * 0.25 * rng.uniform(0.02, 1, count) ** 3.0 + 3
    slabs = rng.random() < 0.5
    for radius in np.sort(size)[::-1]:
        at, grey = rng.uniform(0, SIDE, 2), float(rng.normal())
        if slabs:
            corners = cv2.boxPoints(((at[0], at[1]), (2 * radius, radius * rng.uniform(0.4, 2)), rng.uniform(0, 180)))
            cv2.fillConvexPoly(field, np.round(corners).astype(np.int32), grey)
        else:
            axes = (int(radius) + 1, int(radius * rng.uniform(0.4, 1)) + 1)
            cv2.ellipse(field, np.round(at).astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, grey, -1)
    return field + 0.25 * grain(rng)


def blades(rng: np.random.Generator) -> Field:
    """Thousands of short lines about one direction: grass, straw, hair, needles."""
    field = np.full((SIDE, SIDE), -1.5, np.float32)
    count = 3500
    start = rng.uniform(-20, SIDE + 20, (count, 2))
    angle = rng.normal(rng.uniform(0, np.pi), rng.choice([0.15, 0.5, 2.0]), count)
    step = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * rng.uniform(8, 50, (count, 1))
    ends = np.round(np.concatenate([start, start + step], axis=1) * 8).astype(int).tolist()
    thickness = int(rng.integers(1, 4))
    for (x0, y0, x1, y1), grey in zip(
        ends, (np.linspace(-1, 1, count) + rng.normal(0, 0.5, count)).tolist(), strict=True
    ):
        cv2.line(field, (x0, y0), (x1, y1), grey, thickness, cv2.LINE_8, 3)
    return field


def foliage(rng: np.random.Generator) -> Field:
    """Leaves over each other, the upper ones lighter."""
    field = np.full((SIDE, SIDE), -2, np.float32)
    count = int(rng.integers(600, 1500))
    size = rng.uniform(6, 30)
    at = rng.uniform(0, SIDE, (count, 2)).tolist()
    turn = rng.uniform(0, 180, count).tolist()
    tone = (np.linspace(-1.5, 1, count) + rng.normal(0, 0.5, count)).tolist()
    for centre, angle, grey in zip(at, turn, tone, strict=True):
        axes = (int(size), int(size * 0.4) + 1)
        cv2.ellipse(field, (int(centre[0]), int(centre[1])), axes, angle, 0, 360, grey, -1)
    return field + 0.2 * grain(rng)


def dots(rng: np.random.Generator) -> Field:
    pitch = int(rng.choice([16, 32, 64]))
    x = (np.arange(SIDE) % pitch - pitch / 2) / pitch
    inside = np.hypot(x[None], x[:, None]) < rng.uniform(0.15, 0.45)
    return cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.0) * 3 + 0.2 * grain(rng)


def lights(rng: np.random.Generator) -> Field:
    """Soft discs on dark: a background out of focus."""
    field = spectral(rng, 2.0) * 0.5
    for _ in range(90):
        at = rng.integers(0, SIDE, 2).tolist()
        disc = np.zeros_like(field)
        cv2.circle(disc, at, int(rng.integers(4, 40)), float(rng.uniform(0.2, 1.2)), -1)
        field += disc
    return cv2.GaussianBlur(field, (0, 0), 2.0)


# Each maker and how many of its fields a bank holds: noise, the commonest stuff of nature, most.
MAKERS: tuple[tuple[Callable[[np.random.Generator], Field], int], ...] = (
    (cloud, 8),
    (grain, 6),
    (coat, 5),
    (veins, 5),
    (wood, 2),
    (stripes, 3),
    (weave, 2),
    (bricks, 2),
    (cells, 4),
    (dead_leaves, 6),
    (blades, 4),
    (foliage, 4),
    (dots, 1),
    (lights, 2),
)


def make_field(
    rng: np.random.Generator, maker: Callable[[np.random.Generator], Field]
) -> UInt8[np.ndarray, "side side"]:
    """A field with the mean 128 and the standard deviation 50, as bytes."""
    field = maker(rng)
    field = (field - field.mean()) / (field.std() + 1e-6)
    return np.clip(128 + 50 * field, 0, 255).astype(np.uint8)
