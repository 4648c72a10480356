"""Vehicles: cars, lorries, cycles with riders, boats, aeroplanes; wheels with spokes, rigging, windows."""

import itertools

import numpy as np

from .creatures import figure
from .shapes import arc, blob, box, ellipse, leaves, smooth, spline, tube, vector
from .sketch import Sketch

__all__ = ["aeroplane", "boat", "car", "cycle", "lorry", "wheel", "wheel_alone"]


def wheel(sketch: Sketch, rng: np.random.Generator, centre: np.ndarray, radius: float, airy: float) -> None:
    """Draws a wheel: a tyre and a hub or spokes, between which one sees through with the probability `airy`."""
    group = sketch.group()
    tyre, rim = sketch.part("dark", group), sketch.part("metal", group)
    thickness = radius * (rng.uniform(0.04, 0.14) if rng.random() < airy else rng.uniform(0.2, 0.4))
    spokes = np.arange(rng.integers(3, 24)) * 1.0
    angles = spokes * 2 * np.pi / len(spokes) + rng.uniform(0, 6)
    see_through = rng.random() < airy
    if not see_through:
        sketch.fill(ellipse(centre, radius), tyre)
        sketch.fill(ellipse(centre, radius - thickness), rim)
    ends = centre + np.stack([np.cos(angles), np.sin(angles)], axis=-1) * (radius - thickness)
    lines = np.stack([np.broadcast_to(centre, ends.shape), ends], axis=1)
    spoke_part = rim if see_through else tyre
    sketch.stroke(lines, spoke_part, radius * rng.uniform(0.01, 0.05 if see_through else 0.12))
    sketch.stroke(arc(centre, radius - thickness / 2, n=48), tyre, thickness, closed=True)
    sketch.fill(ellipse(centre, radius * rng.uniform(0.06, 0.25)), rim)


def wheel_alone(rng: np.random.Generator) -> Sketch:
    """A wheel, a gear, a fan or a dial."""
    sketch = Sketch()
    wheel(sketch, rng, np.zeros(2), 1.0, airy=0.75)
    return sketch


def car(rng: np.random.Generator) -> Sketch:
    """A car from the side."""
    sketch = Sketch()
    paint, glass, dark = (
        sketch.part("vivid" if rng.random() < 0.4 else "any"),
        sketch.part("glass"),
        sketch.part("dark"),
    )
    light = sketch.part("light")
    tall, nose, tail = rng.uniform(0.28, 0.5), rng.uniform(0.3, 0.6), rng.uniform(0.05, 0.5)
    deck = -rng.uniform(0.22, 0.35)
    roof = deck - tall
    front, back = 1 - nose, tail - 1
    if rng.random() < 0.2:  # a roof rack or an aerial
        sketch.stroke(np.array([[back * 0.5, roof - 0.08], [front * 0.4, roof - 0.08]]), dark, 0.03)
        sketch.stroke(np.array([[back * 0.4, roof - 0.3], [back * 0.4, deck]]), dark, 0.02)
    body = np.array(
        [[-1, 0.12], [-1.02, deck * 0.6], [back, deck], [back * 0.7, roof], [front * 0.45, roof], [front, deck],
         [0.95, deck * 0.7], [1.03, 0.0], [0.98, 0.14]]
    )  # fmt: skip
    sketch.fill(smooth(body + rng.normal(0, 0.015, body.shape), 5), paint)
    sill = deck + 0.02
    panes = np.array(
        [[back * 0.88, sill], [back * 0.66, roof + 0.07], [front * 0.42, roof + 0.07], [front * 0.85, sill]]
    )
    sketch.fill(panes, glass)
    for x in (back * 0.35, front * 0.3) if rng.random() < 0.8 else ():
        sketch.stroke(np.array([[x, roof], [x, 0.1]]), paint if rng.random() < 0.5 else dark, 0.04)
    for x in (-0.96, 0.96):
        sketch.fill(ellipse([x, deck * 0.45], (0.08, 0.06)), light)
    sketch.fill(box(-0.98, 0.06, 0.98, 0.14, 0.03), dark)
    radius = rng.uniform(0.17, 0.26)
    for x in (-0.62, 0.62):
        sketch.fill(ellipse([x, 0.12], radius * 1.15), dark)
        wheel(sketch, rng, np.array([x, 0.14]), radius, airy=0.0)
    return sketch


def lorry(rng: np.random.Generator) -> Sketch:
    """A lorry, bus, tram or cart: boxes on wheels."""
    sketch = Sketch()
    paint, load, glass, dark = sketch.part(), sketch.part(), sketch.part("glass"), sketch.part("dark")
    height, cab = rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.6)
    bus = rng.random() < 0.4
    load = paint if bus else load
    sketch.fill(box(-1, -height, 1 - cab, 0.1, 0.06), load)
    sketch.fill(box(1 - cab, -height * rng.uniform(0.6, 1), 1, 0.1, 0.1), paint)
    sketch.fill(box(1 - cab * 0.6, -height * 0.55, 0.97, -height * 0.2, 0.03), glass)
    sketch.fill(box(-1, 0.02, 1, 0.1), dark)
    panes = int(rng.integers(3, 8)) if bus else 0
    edges = np.linspace(-0.95, 1 - cab, panes + 1)
    for left, right in itertools.pairwise(edges):
        sketch.fill(box(left + 0.02, -height * 0.8, right - 0.02, -height * 0.4), glass)
    if not bus and rng.random() < 0.5:
        sketch.fill(-np.array([0.4, height / 2]) + blob(rng, 0.3, 32) * 0.25, sketch.part())
    radius = rng.uniform(0.13, 0.22)
    for x in (-0.75, *((-0.4,) if rng.random() < 0.4 else ()), 0.68):
        wheel(sketch, rng, np.array([x, 0.14]), radius, airy=0.0)
    return sketch


def cycle(rng: np.random.Generator) -> Sketch:
    """A bicycle or motorcycle, most often with its rider."""
    sketch = Sketch()
    motor = rng.random() < 0.35
    frame, dark = sketch.part("vivid" if rng.random() < 0.5 else "any"), sketch.part("dark")
    radius = rng.uniform(0.28, 0.38)
    rear, front = np.array([-0.52, 0.0]), np.array([0.55, 0.0])
    for centre in (rear, front):
        wheel(sketch, rng, centre, radius, airy=0.1 if motor else 0.95)
    crank, seat, head = np.array([-0.05, 0.05]), np.array([-0.2, -0.45]), np.array([0.38, -0.5])
    tubes = np.stack([[rear, crank], [rear, seat], [crank, seat], [crank, head], [seat, head], [head, front]])
    sketch.stroke(tubes, frame, rng.uniform(0.025, 0.06))
    if motor:
        sketch.fill(np.mean([crank, head, seat], axis=0) + blob(rng, 0.2, 40) * [0.35, 0.2], frame)
        sketch.fill(ellipse(crank, (0.22, 0.14)), sketch.part("metal"))
    bar = head + np.array([[0.0, 0.0], [-0.02, -0.12], [-0.12, -0.16]])
    sketch.stroke(bar, dark, 0.04)
    sketch.stroke(seat + np.array([[-0.1, -0.05], [0.1, -0.06]]), dark, 0.06)
    if rng.random() < 0.7:
        figure(sketch, rng, seated=True, at=seat + vector(0.0, -0.1))
    return sketch


def boat(rng: np.random.Generator) -> Sketch:
    """A boat with masts, rigging and sails."""
    sketch = Sketch()
    hull, wood, rope = sketch.part(), sketch.part("wood"), sketch.part("dark" if rng.random() < 0.5 else "light")
    depth = rng.uniform(0.12, 0.3)
    masts = np.sort(rng.uniform(-0.6, 0.6, rng.integers(1, 4)))
    bow, stern = np.array([1.05, -0.05]), np.array([-1.0, -0.08])
    line = rng.uniform(0.005, 0.02)
    for x in masts:
        height = -rng.uniform(0.6, 1.8)
        top, foot = np.array([x, height]), np.array([x, 0.0])
        if rng.random() < 0.5:  # a sail
            clew = np.array([x - rng.uniform(0.3, 0.7), -0.12])
            belly = (top + clew) / 2 + vector(rng.normal(0, 0.1), 0)
            sketch.fill(spline([top, belly, clew, [x - 0.02, -0.12]]), sketch.part("light"))
        sketch.stroke(np.stack([[top, bow], [top, stern]]), rope, line)
        stays = x + np.linspace(-0.25, 0.25, int(rng.integers(0, 7)))
        if len(stays):
            lines = np.stack([np.stack([top * [1, 0.95], vector(end, 0)]) for end in stays])
            sketch.stroke(lines, rope, line)
            for share in np.linspace(0.2, 0.8, int(rng.integers(0, 6))):  # ratlines
                sketch.stroke(lines[[0, -1], 0] * share + lines[[0, -1], 1] * (1 - share), rope, line)
        sketch.fill(tube([foot, top], [0.025, 0.012], 1), wood)
        if rng.random() < 0.5:
            yard = np.array([[x - 0.35, height * 0.7], [x + 0.35, height * 0.7]])
            sketch.stroke(yard, wood, 0.02)
    sketch.fill(spline([stern, [-0.85, depth], [0.7, depth], bow, [0.3, 0.02], stern], 5), hull)
    sketch.fill(tube([stern + vector(0.02, 0.03), bow - [0.05, -0.02]], 0.03, 1), wood, onto=hull)
    if rng.random() < 0.5:
        x = rng.uniform(-0.6, 0.2)
        sketch.fill(box(x, -0.25, x + rng.uniform(0.2, 0.6), 0.02, 0.03), sketch.part())
        sketch.fill(box(x + 0.04, -0.2, x + 0.14, -0.1), sketch.part("glass"))
    return sketch


def aeroplane(rng: np.random.Generator) -> Sketch:
    """An aeroplane or helicopter from the side."""
    sketch = Sketch()
    paint, wing, dark = sketch.part(), sketch.part(), sketch.part("dark")
    thick = rng.uniform(0.08, 0.22)
    if rng.random() < 0.4:  # a rotor and skids
        sketch.stroke(np.array([[-1.0, -0.35], [0.9, -0.33]]) + rng.normal(0, 0.03, (2, 2)), dark, 0.03)
        sketch.stroke(np.array([[0.1, -0.35], [0.1, 0.0]]), dark, 0.05)
        skids = np.array([[[-0.2, 0.35], [0.5, 0.35]], [[0.0, 0.0], [-0.05, 0.35]], [[0.3, 0.0], [0.35, 0.35]]])
        sketch.stroke(skids, dark, 0.025)
        thick *= 1.4
        sketch.stroke(arc([-0.98, -0.05], 0.16, n=24), dark, 0.015)
    else:
        sketch.fill(leaves([[0.2, 0.0]], [rng.uniform(0.4, 2.6)], rng.uniform(0.5, 1.0), 0.35, 0.7), wing)
        sketch.fill(leaves([[0.15, 0.0]], [-rng.uniform(0.9, 2.3)], rng.uniform(0.2, 0.7), 0.35, 0.7), wing)
    fin = np.array([[-0.95, 0.0], [-1.1, -0.4], [-0.9, -0.4], [-0.65, 0.0]])
    sketch.fill(fin, wing)
    sketch.fill(tube([[-1, 0], [0, 0], [0.6, 0], [0.9, 0.03]], [0.03, thick, thick, 0.04]), paint)
    for x in np.linspace(-0.4, 0.6, int(rng.integers(1, 9))):
        sketch.fill(ellipse([x, -thick * 0.3], 0.035, n=10), sketch.part("glass") if x < -0.39 else dark)
    sketch.fill(ellipse([0.62, -thick * 0.35], (0.14, thick * 0.5)), sketch.part("glass"))
    return sketch
