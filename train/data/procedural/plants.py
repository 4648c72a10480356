"""Plants: branches with leaves, flowers, grass, ferns and feathers."""

import numpy as np

from .shapes import blob, bones, box, ellipse, leaves, spline, tube, vector
from .sketch import Fur, Sketch

__all__ = ["branch", "fern", "flower", "tree", "tuft"]


def branch(rng: np.random.Generator) -> Sketch:
    """A twig that forks a few times, bare or with leaves at its ends."""
    sketch = Sketch()
    wood, leaf, other = sketch.part("wood"), sketch.part("green"), sketch.part("green")
    tips, angles = fork(sketch, rng, wood, depth=int(rng.integers(3, 6)), thickness=rng.uniform(0.03, 0.09))
    if rng.random() < 0.75:
        share = rng.random(len(tips)) < rng.uniform(0.3, 1)
        turns = angles[share] + rng.normal(0, 0.7, int(share.sum()))
        length = rng.uniform(0.12, 0.4) * rng.uniform(0.6, 1.2, len(turns))
        outlines = leaves(tips[share], turns, length, rng.uniform(0.15, 0.7))
        sketch.fill(outlines[::2], leaf)
        sketch.fill(outlines[1::2], other)
    return sketch


def fork(
    sketch: Sketch, rng: np.random.Generator, part: int, depth: int, thickness: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a branching stem upwards from the origin; where leaves can sit, and the directions there."""
    # Rows of start, end, and the radii there; two rows a twig, which is bent at its middle.
    pieces: list[tuple[np.ndarray, np.ndarray, float, float]] = []
    directions: list[float] = []
    spread, shrink = rng.uniform(0.3, 0.8), rng.uniform(0.65, 0.85)
    stack = [(np.zeros(2), -np.pi / 2 + rng.normal(0, 0.2), 0.6, thickness, depth)]
    while stack:
        start, angle, length, width, left = stack.pop()
        bent = angle + rng.normal(0, 0.25)
        middle = start + length / 2 * vector(np.cos(angle), np.sin(angle))
        end = middle + length / 2 * vector(np.cos(bent), np.sin(bent))
        pieces += [(start, middle, width, width * 0.85), (middle, end, width * 0.85, width * 0.7)]
        directions += [bent + rng.choice([-0.8, 0.8]), bent]
        for side in (-1, 1, 0) if left > 0 else ():
            if (side and rng.random() < 0.85) or rng.random() < 0.2:
                turn = bent + side * spread * rng.uniform(0.5, 1.3)
                stack.append((end, turn, length * shrink * rng.uniform(0.7, 1.1), width * 0.65, left - 1))
    starts, ends, thick, thin = (np.array(column) for column in zip(*pieces, strict=True))
    sketch.fill(bones(starts, ends, thick, thin), part)
    return ends, np.array(directions)


def tree(rng: np.random.Generator) -> Sketch:
    """A trunk and a crown of clumps with gaps between, or a pot with a plant."""
    sketch = Sketch()
    wood, leaf, other = sketch.part("wood"), sketch.part("green"), sketch.part("green")
    tips, _ = fork(sketch, rng, wood, depth=3, thickness=rng.uniform(0.05, 0.12))
    size = rng.uniform(0.1, 0.3)
    bare: tuple[int, ...] = (wood,)
    for number, tip in enumerate(tips[rng.random(len(tips)) < 0.8]):
        sketch.fill(tip + blob(rng, 0.4, 40) * size * rng.uniform(0.5, 1.2), leaf if number % 2 else other)
    if rng.random() < 0.5:  # a pot
        pot = sketch.part("any", sketch.group())
        sketch.fill(box(-0.25, 0.0, 0.25, rng.uniform(0.2, 0.5), 0.03), pot)
        bare = (wood, pot)
    sketch.fur = Fur(rng.uniform(0.02, 0.06), rng.uniform(0.3, 1.5), 1.0, bare)
    return sketch


def flower(rng: np.random.Generator) -> Sketch:
    """A flower on its stem, or several."""
    sketch = Sketch()
    stem = sketch.part("green")
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        group = sketch.group()
        petal, heart = sketch.part("vivid", group), sketch.part("any", group)
        head = np.array([rng.normal(0, 0.45), rng.normal(0, 0.25)])
        foot = np.array([rng.normal(0, 0.1), 1.6])
        curve = spline([head, (head + foot) / 2 + rng.normal(0, 0.12, 2), foot])
        sketch.fill(tube(curve[::4], rng.uniform(0.015, 0.04), 1), stem)
        at = curve[rng.integers(3, len(curve) - 1, int(rng.integers(0, 5)))]
        if len(at):
            sketch.fill(leaves(at, rng.uniform(-2.8, -0.3, len(at)), rng.uniform(0.3, 0.6), 0.3), stem)
        count = int(rng.integers(4, 22))
        angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.08, count)
        size, flat = rng.uniform(0.3, 0.6), rng.uniform(0.4, 1.0)
        petals = leaves(np.zeros((count, 2)), angles, size, rng.uniform(0.8, 4.0) / count + 0.05, rng.uniform(0.4, 1.2))
        sketch.fill(head + petals * [1, flat], petal)
        sketch.fill(ellipse(head, np.array([1, flat]) * size * rng.uniform(0.1, 0.45)), heart)
    return sketch


def tuft(rng: np.random.Generator) -> Sketch:
    """A tuft of grass, reeds or corn: many thin blades from one place."""
    sketch = Sketch()
    parts = [sketch.part("green"), sketch.part("green" if rng.random() < 0.6 else "any")]
    count, wide = int(rng.integers(8, 45)), rng.uniform(0.02, 0.6)
    width = rng.uniform(0.01, 0.04)
    for number in range(count):
        base = np.array([rng.normal(0, wide * 0.5), 0.0])
        droop = rng.normal(0, 0.6)
        height = rng.uniform(0.5, 1.3)
        knots = base + np.array([[0, 0], [droop * 0.3, -height * 0.6], [droop, -height * (1 - 0.3 * abs(droop))]])
        sketch.fill(tube(knots, [width, width * 0.8, 0.002], 3), parts[number % 2])
        if rng.random() < 0.1:
            sketch.fill(ellipse(knots[-1], (0.04, 0.09)), parts[1])
    return sketch


def fern(rng: np.random.Generator) -> Sketch:
    """A feather, a fern or a palm leaf: a curved stem with barbs on both sides."""
    sketch = Sketch()
    blade, stem = sketch.part("green" if rng.random() < 0.5 else "any"), sketch.part("wood")
    curve = spline([[0, 0], [0.6, rng.normal(0, 0.2)], [1.3, rng.normal(0, 0.4)], [1.8, rng.normal(0, 0.7)]], 14)
    along = np.gradient(curve, axis=0)
    heading = np.arctan2(along[:, 1], along[:, 0])
    profile = np.sin(np.linspace(0.25, np.pi - 0.1, len(curve))) * rng.uniform(0.2, 0.6)
    slant, slim = rng.uniform(0.5, 1.2), rng.uniform(0.06, 0.3)
    for side in (-1, 1):
        turn = heading + side * (slant + rng.normal(0, 0.06, len(curve)))
        kept = rng.random(len(curve)) < rng.uniform(0.6, 1.0)
        sketch.fill(leaves(curve[kept], turn[kept], profile[kept], slim), blade)
    sketch.fill(tube(curve[::3], np.linspace(0.025, 0.006, len(curve[::3])), 1), stem)
    return sketch
