"""Things that people make: lattices, fences, trusses, wires, letters, furniture, vessels, boxes, nets and rings."""

import functools

import cv2
import numpy as np

from .shapes import Outline, arc, blob, box, ellipse, smooth, spline, star, tube, vector
from .sketch import Fur, Sketch

__all__ = [
    "carton",
    "furniture",
    "lattice",
    "lettering",
    "lump",
    "polygons",
    "ring",
    "truss",
    "umbrella",
    "vessel",
    "web",
    "wires",
]


def lump(rng: np.random.Generator) -> Sketch:
    """An organic body of one to four rounded lobes with patches, some furry, some with holes."""
    sketch = Sketch()
    body = sketch.part()
    for _ in range(int(rng.choice([1, 1, 2, 3, 4]))):
        part = body if rng.random() < 0.6 else sketch.part("any", sketch.group())
        lobe = blob(rng, rng.uniform(0.05, 0.45)) * rng.uniform(0.35, 1.0)
        sketch.fill(rng.normal(0, 0.4, 2) + lobe * [1, rng.uniform(0.4, 1)], part)
    for _ in range(int(rng.choice([0, 0, 2, 6]))):
        spot = rng.normal(0, 0.5, 2) + blob(rng, 0.3, 32) * rng.uniform(0.05, 0.35)
        sketch.fill(spot, sketch.part(), onto=body)
    if rng.random() < 0.12:
        sketch.erase(rng.normal(0, 0.2, 2) + blob(rng, 0.25, 40) * rng.uniform(0.1, 0.35))
    if rng.random() < 0.35:
        sketch.fur = Fur(rng.uniform(0.04, 0.25), rng.uniform(0.6, 3.0), rng.uniform(0.1, 0.7))
    return sketch


def polygons(rng: np.random.Generator) -> Sketch:
    """Rocks, roofs, signs and stars: polygons, faceted."""
    sketch = Sketch()
    base = sketch.part()
    if rng.random() < 0.3:
        outline = star(int(rng.integers(3, 10)), rng.uniform(0.3, 0.8))
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 10))))
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * rng.uniform(0.6, 1, (len(angles), 1))
        outline = np.concatenate([outline, [[0.1, -0.1]]]) if np.ptp(angles) < np.pi else outline
    sketch.fill(outline, base)
    for _ in range(int(rng.integers(0, 4))):  # facets
        corner = outline[rng.integers(0, len(outline), 3)] + rng.normal(0, 0.1, (3, 2))
        sketch.fill(corner, sketch.part(), onto=base)
    return sketch


def lattice(rng: np.random.Generator) -> Sketch:
    """A fence, gate, ladder, rack or window: bars both ways, in a frame or not; one sees through."""
    sketch = Sketch()
    bars, frame = sketch.part("metal" if rng.random() < 0.5 else "wood"), sketch.part("any")
    width, height = 1.0, rng.uniform(0.4, 1.6)
    across, down = int(rng.integers(2, 16)), int(rng.integers(0, 8))
    thick = rng.uniform(0.008, 0.05)
    slant = rng.choice([0.0, 0.0, 0.6])
    lean = np.array([[0, 0], [slant, 0]]) * height
    xs, ys = np.linspace(-width, width, across), np.linspace(-height, height, down + 2)[1 : down + 1]
    uprights = np.stack([[[x, -height], [x, height]] for x in xs])
    sketch.stroke(uprights + lean, bars, thick)
    if slant:
        sketch.stroke(uprights - lean, bars, thick)
    if down:
        sketch.stroke(np.stack([[[-width, y], [width, y]] for y in ys]), bars, thick * rng.uniform(0.7, 2))
    if rng.random() < 0.3:  # pointed pales
        sketch.fill(np.stack([[[x - 0.05, -height], [x, -height - 0.15], [x + 0.05, -height]] for x in xs]), bars)
    if rng.random() < 0.6:
        sketch.stroke(box(-width, -height, width, height), frame, thick * rng.uniform(1, 4), closed=True)
    if rng.random() < 0.25:  # a sign on it
        sketch.fill(rng.normal(0, 0.3, 2) + box(-0.3, -0.2, 0.3, 0.2), sketch.part("any", sketch.group()))
    return sketch


def truss(rng: np.random.Generator) -> Sketch:
    """A pylon, crane or bridge: triangles of thin bars, with arms and cables."""
    sketch = Sketch()
    steel = sketch.part("metal" if rng.random() < 0.6 else "any")
    count = int(rng.integers(4, 12))
    foot, top = rng.uniform(0.15, 0.5), rng.uniform(0.03, 0.15)
    half, y = np.linspace(foot, top, count), np.linspace(1.2, -1.2, count)
    left, right = np.stack([-half, y], axis=-1), np.stack([half, y], axis=-1)
    thick = rng.uniform(0.01, 0.04)
    sketch.stroke(left, steel, thick * 1.5)
    sketch.stroke(right, steel, thick * 1.5)
    sketch.stroke(np.stack([left[:-1], right[1:]], axis=1), steel, thick)
    sketch.stroke(np.stack([right[:-1], left[1:]], axis=1), steel, thick)
    if rng.random() < 0.5:
        sketch.stroke(np.stack([left, right], axis=1), steel, thick)
    for level in rng.uniform(-1.2, 0.2, int(rng.integers(0, 4))):
        reach = rng.uniform(0.3, 0.9)
        arm = np.array([[-reach, level], [0, level - 0.12], [reach, level], [-reach, level]])
        sketch.stroke(arm, steel, thick)
        if rng.random() < 0.5:
            sketch.stroke(np.stack([[[s * reach, level], [s * reach, level + 0.15]] for s in (-1, 1)]), steel, thick)
    return sketch


def wires(rng: np.random.Generator) -> Sketch:
    """A cable or rope, coiled or crossing, with a plug, or hair-thin twigs."""
    sketch = Sketch()
    for _ in range(int(rng.integers(1, 4))):
        part = sketch.part("dark" if rng.random() < 0.5 else "any")
        if rng.random() < 0.3:  # a coil
            t = np.linspace(0, rng.uniform(2, 7) * 2 * np.pi, 150)
            curve = np.stack([np.cos(t) * 0.4 + t * rng.uniform(0.01, 0.08), np.sin(t) * 0.5], axis=-1)
        else:
            curve = spline(np.cumsum(rng.normal(0, 0.6, (int(rng.integers(4, 9)), 2)), axis=0), 12)
            curve = curve - curve.mean(axis=0)
        sketch.stroke(curve, part, rng.uniform(0.015, 0.08))
        if rng.random() < 0.5:
            sketch.fill(curve[-1] + box(-0.12, -0.08, 0.12, 0.08, 0.03), sketch.part("any", sketch.group()))
    return sketch


def web(rng: np.random.Generator) -> Sketch:
    """A net or a spider's web: spokes from a centre and threads around, or a mesh of a racket."""
    sketch = Sketch()
    thread = sketch.part("light" if rng.random() < 0.6 else "any")
    spokes, rounds = int(rng.integers(5, 15)), int(rng.integers(2, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, spokes))
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * rng.uniform(0.7, 1.1, (spokes, 1))
    thick = rng.uniform(0.008, 0.03)
    sketch.stroke(np.stack([np.zeros_like(rim), rim], axis=1), thread, thick)
    rings = np.linspace(0.2, 0.95, rounds)[:, None, None] * rim
    sketch.stroke(rings, thread, thick, closed=True)
    if rng.random() < 0.4:
        sketch.fill(blob(rng, 0.2, 24) * 0.15, sketch.part("dark"))
    return sketch


@functools.lru_cache(maxsize=512)
def _glyph(letter: str, font: int, thickness: int) -> tuple[Outline, ...]:
    """Outlines of a letter about 1 high."""
    canvas = np.zeros((160, 200), np.uint8)
    cv2.putText(canvas, letter, (50, 110), font, 3.0, 255, thickness, cv2.LINE_8)
    contours, _ = cv2.findContours(canvas, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_L1)
    return tuple((contour[:, 0] - np.array([100.0, 80.0])) / 70 for contour in contours if len(contour) > 2)


def lettering(rng: np.random.Generator) -> Sketch:
    """One to five letters in a row, some on a board."""
    sketch = Sketch()
    ink = sketch.part("any")
    alphabet = "ABCDEFGHKLMNPRSTWXYZabdeghkmnqrsty0123456789&?@#"
    fonts = (
        cv2.FONT_HERSHEY_SIMPLEX,
        cv2.FONT_HERSHEY_DUPLEX,
        cv2.FONT_HERSHEY_COMPLEX,
        cv2.FONT_HERSHEY_TRIPLEX,
        cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
    )
    font, thickness = int(rng.choice(fonts)), int(rng.choice([4, 9, 16, 22]))
    count = int(rng.choice([1, 1, 2, 3, 5]))
    if rng.random() < 0.2:
        sketch.fill(box(-0.9, -0.8, count * 0.95 - 0.1, 0.8, 0.1), sketch.part("any"))
    for place in range(count):
        letter = alphabet[rng.integers(len(alphabet))]
        offset = [place * 0.95, rng.normal(0, 0.05)]
        sketch.fill_odd([outline + offset for outline in _glyph(letter, font, thickness)], ink)
    return sketch


def furniture(rng: np.random.Generator) -> Sketch:
    """A chair, table, stool, lamp or easel: thin legs under a body."""
    sketch = Sketch()
    legs, top = sketch.part("wood" if rng.random() < 0.6 else "metal"), sketch.part("any", sketch.group())
    thick, deep = rng.uniform(0.015, 0.06), rng.uniform(0.1, 0.4)
    seat = np.array([[-0.6, 0.0], [0.5, 0.0], [0.5 + deep, -deep], [-0.6 + deep, -deep]])
    height, splay = rng.uniform(0.5, 1.2), rng.uniform(0, 0.15)
    feet = seat + np.array([[-splay, height], [splay, height], [splay, height], [-splay, height]])
    sketch.stroke(np.stack([seat, feet], axis=1), legs, thick)
    if rng.random() < 0.5:
        rails = seat * 0.5 + feet * 0.5
        sketch.stroke(rails, legs, thick * 0.7, closed=True)
    if rng.random() < 0.6:  # a back with bars
        back = -rng.uniform(0.5, 1.1)
        posts = np.linspace(seat[3], seat[2], int(rng.integers(2, 8)))
        sketch.stroke(np.stack([posts, posts + vector(0, back)], axis=1), legs, thick)
        sketch.stroke(np.stack([posts[0], posts[-1]]) + vector(0.0, back), legs, thick * rng.uniform(1, 4))
    sketch.fill(seat, top)
    sketch.fill(np.concatenate([seat[:2], seat[1::-1] + vector(0, thick * rng.uniform(1, 4))]), top)
    if rng.random() < 0.4:  # a lamp or a vase on it
        foot = seat.mean(axis=0)
        sketch.stroke(foot + np.array([[0, 0], [0, -0.6]]), legs, 0.03)
        sketch.fill(foot + np.array([[-0.15, -0.8], [0.15, -0.8], [0.28, -0.5], [-0.28, -0.5]]), sketch.part("light"))
    return sketch


def vessel(rng: np.random.Generator) -> Sketch:
    """A cup, jug, bottle or vase turned about an axis, with a handle that one sees through."""
    sketch = Sketch()
    body, band = sketch.part(), sketch.part()
    knots = np.stack([rng.uniform(0.2, 0.7, 5), np.linspace(-0.9, 0.9, 5)], axis=-1)
    side = spline(knots, 8)
    for sign in (-1, 1) if rng.random() < 0.3 else (1,) if rng.random() < 0.7 else ():
        grip = arc([sign * knots[2, 0], 0.0], [rng.uniform(0.3, 0.5), rng.uniform(0.3, 0.5)], n=40)
        sketch.stroke(grip, body, rng.uniform(0.05, 0.14), closed=True)
    sketch.fill(np.concatenate([side, side[::-1] * [-1, 1]]), body)
    for y in rng.uniform(-0.8, 0.8, int(rng.integers(0, 4))):
        sketch.fill(box(-1, y, 1, y + rng.uniform(0.03, 0.3)), band, onto=body)
    sketch.fill(ellipse([0, -0.9], (knots[0, 0], knots[0, 0] * 0.25)), sketch.part("dark"))
    return sketch


def carton(rng: np.random.Generator) -> Sketch:
    """A box or house in perspective: three faces, with windows, a label or a roof."""
    sketch = Sketch()
    front, flank, top = sketch.part("any", sketch.group()), sketch.part(), sketch.part()
    w, h, d, rise = rng.uniform(0.3, 1), rng.uniform(0.3, 1), rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.5)
    corner = np.array([[-w, -h], [w, -h], [w, h], [-w, h]])
    shift = np.array([d, -rise])
    sketch.fill(np.stack([corner[1], corner[2], corner[2] + shift * 0.8, corner[1] + shift]), flank)
    if rng.random() < 0.6:
        sketch.fill(np.stack([corner[0], corner[1], corner[1] + shift, corner[0] + shift]), top)
    else:  # a roof
        ridge = np.array([0.0, -h - rng.uniform(0.3, 0.8)])
        sketch.fill(np.stack([corner[1], ridge, ridge + shift, corner[1] + shift]), top)
        sketch.fill(np.stack([corner[0], corner[1], ridge]), front)
    sketch.fill(corner, front)
    rows, columns = int(rng.integers(0, 4)), int(rng.integers(1, 5))
    pane = sketch.part("glass" if rng.random() < 0.5 else "any")
    for row in range(rows):
        for column in range(columns):
            x, y = -w + 2 * w * (column + 0.25) / columns, -h + 2 * h * (row + 0.25) / rows
            sketch.fill(box(x, y, x + w / columns, y + h / rows), pane)
    return sketch


def umbrella(rng: np.random.Generator) -> Sketch:
    """An umbrella, parasol, tent or parachute: a canopy of segments over a pole or strings."""
    sketch = Sketch()
    panels, pole = [sketch.part(), sketch.part()], sketch.part("dark")
    count, high = int(rng.integers(4, 9)), rng.uniform(0.3, 0.9)
    rim = np.stack([np.linspace(-1, 1, count + 1), 0.08 * np.cos(np.linspace(-1.5, 1.5, count + 1))], axis=-1)
    if rng.random() < 0.4:  # strings to a load
        load = np.array([rng.normal(0, 0.3), rng.uniform(0.8, 1.8)])
        sketch.stroke(np.stack([rim, np.broadcast_to(load, rim.shape)], axis=1), pole, rng.uniform(0.01, 0.02))
        sketch.fill(load + blob(rng, 0.3, 40) * 0.2, sketch.part("any", sketch.group()))
    else:
        sketch.stroke(np.array([[0, -high - 0.1], [0, rng.uniform(0.6, 1.4)]]), pole, rng.uniform(0.02, 0.05))
    crown = np.array([0.0, -high])
    for number in range(count):
        a, b = rim[number], rim[number + 1]
        left, right = a * [0.8, 0] + vector(0, -high * 0.75), b * [0.8, 0] + vector(0, -high * 0.75)
        scallop = (a + b) / 2 - [0.0, 0.08]
        sketch.fill(
            np.concatenate([spline([crown, left, a], 4), [scallop], spline([b, right, crown], 4)]), panels[number % 2]
        )
    return sketch


def ring(rng: np.random.Generator) -> Sketch:
    """A ring, frame, key, pair of scissors or of spectacles: holes through which one sees."""
    sketch = Sketch()
    metal = sketch.part("metal" if rng.random() < 0.5 else "any")
    thick = rng.uniform(0.05, 0.3)
    if rng.random() < 0.5:
        sketch.stroke(smooth(blob(rng, 0.1, 12, 4) * [1, rng.uniform(0.5, 1)]), metal, thick, closed=True)
        if rng.random() < 0.4:
            sketch.stroke(np.array([[1.0, 0.0], [2.2, 0.1]]), metal, thick)
            sketch.stroke(np.array([[[1.8, 0.0], [1.8, 0.4]], [[2.1, 0.0], [2.1, 0.3]]]), metal, thick)
    else:  # two loops, bridged or crossed
        for side in (-1, 1):
            loop = ellipse([side * 0.62, 0.0], (0.45, rng.uniform(0.3, 0.45)))
            sketch.stroke(loop, metal, thick * 0.5, closed=True)
            reach = np.array([[side * 0.5, -0.35], [-side * 0.4, -rng.uniform(1.2, 1.8)]])
            sketch.fill(tube(reach, [thick * 0.4, 0.02], 2), metal)
        sketch.stroke(np.array([[-0.2, 0.0], [0.2, 0.0]]), metal, thick * 0.5)
    return sketch
