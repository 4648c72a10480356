"""A scene: objects over each other on a background, one of them the target."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from .backgrounds import background
from .camera import develop, motion_kernel
from .colours import natural_colour
from .composition import Plane, cast_shadow, put, smear, spread, visible
from .families import Family, draw_family, pick_family
from .painting import Layer, Look, paint
from .textures import Textures

__all__ = ["LARGEST", "SMALLEST", "extents", "is_salient", "make_scene", "place"]

# Share of the picture that a target's visible mask may hold.
SMALLEST, LARGEST = 0.006, 0.75
# Least visible share of a target: less is not a salient object any more.
VISIBLE = 0.35


def make_scene(
    rng: np.random.Generator, size: int, textures: Textures, targets: int = 1
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size n"]] | None:
    """A photo of a scene and the coverage of its targets, or None if nothing in it can be a target.

    There are up to `targets`; photo and first target are the same however many are asked for.
    """
    look = Look(
        [natural_colour(rng) for _ in range(int(rng.integers(3, 8)))],
        light=rng.uniform(0, 2 * np.pi),
        sharing=float(rng.choice([0.1, 0.3, 0.7])),
        photographic=float(rng.choice([0.0, 0.5, 0.9])),
    )
    scene, regions = background(rng, size, textures, look)
    if rng.random() < 0.2:  # out of focus
        scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.003, 0.02) * size)
    herd = pick_family(rng) if rng.random() < 0.25 else None
    layers = [place(rng, size, extent, herd or pick_family(rng), textures, look) for extent in extents(rng)]
    for layer in layers:
        if rng.random() < 0.4:
            scene = cast_shadow(rng, scene, layer)
        scene = put(scene, layer)
    shown, free = visible(layers, size)
    target = _pick_target(rng, layers, regions, shown, free)
    if target is None:
        return None
    others = _others(layers, shown, target)[: targets - 1] if targets > 1 else []
    if rng.random() < 0.08:  # the camera shakes
        kernel = motion_kernel(rng, size * rng.uniform(0.01, 0.05))
        shaken = cv2.filter2D(target, -1, kernel)
        if is_salient(shaken, target):
            scene, target = cv2.filter2D(scene, -1, kernel), shaken
            blurred = [(cv2.filter2D(other, -1, kernel), other) for other in others]
            others = [plane for plane, sharp in blurred if is_salient(plane, sharp)]
    masks = np.round(np.clip(np.stack([target, *others], axis=-1), 0, 1) * 255).astype(np.uint8)
    return develop(rng, scene), masks


def is_salient(shown: Plane, whole: Plane) -> bool:
    """Whether a target, of which `shown` is to be seen, is of the right size, not mostly hidden, and firm somewhere."""
    area = float(shown.mean())
    return (
        SMALLEST <= area <= LARGEST
        and area >= VISIBLE * float(whole.mean())
        and float((shown > 0.5).mean()) >= SMALLEST / 2
    )


def _pick_target(
    rng: np.random.Generator, layers: list[Layer], regions: list[Plane], shown: list[Plane], free: Plane
) -> Plane | None:
    """An object, seldom a part of one or a region of the background, less what hides it."""
    if rng.random() < 0.06:
        bare = [region * free for region in regions]
        candidates = [plane for plane, region in zip(bare, regions, strict=True) if is_salient(plane, region)]
        if candidates:
            return candidates[rng.integers(len(candidates))]
    objects = [spread(layer.alpha, layer, len(free)) for layer in layers]
    salient = [number for number, whole in enumerate(objects) if is_salient(shown[number], whole)]
    if not salient:
        return None
    # The larger objects more often: small ones are mostly the background's furniture.
    weight = np.array([float(shown[number].mean()) for number in salient]) ** 0.75
    chosen = salient[rng.choice(len(salient), p=weight / weight.sum())]
    if rng.random() < 0.08:
        parts = [spread(part, layers[chosen], len(free)) for part in layers[chosen].named]
        unhidden = shown[chosen] / np.maximum(objects[chosen], 1e-6)
        candidates = [part * unhidden for part in parts if is_salient(part * unhidden, part)]
        if candidates:
            return candidates[rng.integers(len(candidates))]
    return shown[chosen]


def _others(layers: list[Layer], shown: list[Plane], target: Plane) -> list[Plane]:
    """The objects that could have been the target instead, as far as they show, the largest first."""
    found = [
        plane
        for layer, plane in zip(layers, shown, strict=True)
        if plane is not target and is_salient(plane, spread(layer.alpha, layer, len(plane)))
    ]
    return sorted(found, key=lambda plane: -float(plane.sum()))


def extents(rng: np.random.Generator) -> list[float]:
    """Sizes of the objects' boxes from the lowest to the uppermost, as shares of the picture's side."""
    hero = rng.uniform(0.4, 1.15) if rng.random() < 0.8 else rng.uniform(0.17, 0.4)
    others = np.exp(rng.uniform(np.log(0.1), np.log(0.8), int(rng.choice([0, 1, 1, 2, 3, 5])))).tolist()
    others.insert(int(rng.integers(len(others) + 1)), hero)
    return others


def place(rng: np.random.Generator, size: int, extent: float, family: Family, textures: Textures, look: Look) -> Layer:
    """Draws an object, turns and squeezes it, brings it into the frame, and paints it."""
    sketch = draw_family(rng, family)
    low, high = sketch.bounds()
    turn = rng.normal(0, 0.15) if family.upright else rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(turn), np.sin(turn)
    squeeze = np.exp(rng.normal(0, 0.12))
    mirror = rng.choice([-1.0, 1.0])
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([mirror * squeeze, 1 / squeeze])
    corners = (np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])) @ linear.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = extent * size / float(np.max(high - low))
    span = (high - low) * scale
    # The centre stays inside unless the object is large; then the frame may cut it.
    centre = size * rng.uniform(0.1, 0.9, 2) if extent < 0.5 else size * rng.uniform(0.3, 0.7, 2)
    affine = np.concatenate([linear * scale, (centre - (low + high) / 2 * scale)[:, None]], axis=1)
    path = size * rng.uniform(0.01, 0.06) if rng.random() < 0.12 else 0.0
    hair = sketch.fur.length * scale if sketch.fur is not None else 0.0
    x, y, width, height = _window(centre, span, path + hair * 2 + 2, size)
    affine[:, 2] -= (x, y)
    samples = sketch.render(rng, affine, width, height, thinnest=rng.uniform(0.9, 1.5))
    layer = paint(rng, samples, sketch.parts, x, y, size, textures, look)
    return smear(rng, layer, path) if path else layer


def _window(
    centre: Float[np.ndarray, "2"], span: Float[np.ndarray, "2"], margin: float, size: int
) -> tuple[int, int, int, int]:
    """Left, upper, width and height of what is drawn: the object's box and its margin, less what is far outside."""
    beyond = int(np.ceil(margin))
    low = np.maximum(np.floor(centre - span / 2 - margin), -beyond).astype(int)
    high = np.minimum(np.ceil(centre + span / 2 + margin), size + beyond).astype(int)
    extent = np.maximum(high - low, 4)
    return int(low[0]), int(low[1]), int(extent[0]), int(extent[1])
