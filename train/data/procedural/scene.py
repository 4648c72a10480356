"""A scene: objects over each other on a background, one of them the target."""

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from .backgrounds import background
from .camera import develop, motion_kernel
from .colours import natural_colour
from .families import draw_family
from .painting import Layer, Palette, paint
from .textures import Textures

__all__ = ["LARGEST", "SMALLEST", "make_scene"]

# Share of the picture that a target's visible mask may hold.
SMALLEST, LARGEST = 0.006, 0.75
# Least visible share of a target: less is not a salient object any more.
VISIBLE = 0.35

Plane = Float32[np.ndarray, "size size"]


def make_scene(
    rng: np.random.Generator, size: int, textures: Textures
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]] | None:
    """A photo of a scene and the coverage of its target, or None if no object of it can be a target."""
    palette = Palette(
        [natural_colour(rng) for _ in range(int(rng.integers(3, 8)))],
        sharing=float(rng.choice([0.1, 0.3, 0.7])),
        photographic=float(rng.choice([0.0, 0.5, 0.9])),
    )
    scene, regions = background(rng, size, textures, palette)
    if rng.random() < 0.3:
        scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.004, 0.03) * size)
    layers = [_place(rng, size, extent, textures, palette) for extent in _extents(rng)]
    free = np.ones((size, size), np.float32)
    seen: list[Plane] = []
    for layer in layers:
        if rng.random() < 0.4:
            scene = _cast_shadow(rng, scene, layer)
        scene = _put(scene, layer)
    candidates: list[Plane] = []
    for layer in reversed(layers):
        whole = _spread(layer.alpha, layer, size)
        visible = whole * free
        if _salient(visible, whole):
            parts = [_spread(part, layer, size) for part in layer.named]
            parts = [part * free for part in parts if _salient(part * free, part)]
            candidates.append(parts[rng.integers(len(parts))] if parts and rng.random() < 0.06 else visible)
        free = free * (1 - whole)
        seen.append(visible)
    if regions and rng.random() < 0.06:
        candidates = [r * free for r in regions if _salient(r * free, r)] or candidates
    if not candidates:
        return None
    # The larger objects more often: small ones are mostly the background's furniture.
    weight = np.sqrt([float(c.mean()) for c in candidates])
    target = candidates[rng.choice(len(candidates), p=weight / weight.sum())]
    if rng.random() < 0.08:  # the camera shakes
        kernel = motion_kernel(rng, size * rng.uniform(0.01, 0.05))
        scene, target = cv2.filter2D(scene, -1, kernel), cv2.filter2D(target, -1, kernel)
    mask = np.round(np.clip(target, 0, 1) * 255).astype(np.uint8)
    return develop(rng, scene), mask


def _extents(rng: np.random.Generator) -> list[float]:
    """Sizes of the objects' boxes from the lowest to the uppermost, as shares of the picture's side."""
    hero = rng.uniform(0.3, 1.05) if rng.random() < 0.85 else rng.uniform(0.17, 0.4)
    others = np.exp(rng.uniform(np.log(0.1), np.log(0.8), int(rng.choice([0, 1, 1, 2, 3, 5])))).tolist()
    others.insert(int(rng.integers(len(others) + 1)), hero)
    return others


def _place(rng: np.random.Generator, size: int, extent: float, textures: Textures, palette: Palette) -> Layer:
    """Draws an object, turns and squeezes it, brings it into the frame, and paints it."""
    family, sketch = draw_family(rng)
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
    smear = size * rng.uniform(0.01, 0.06) if rng.random() < 0.12 else 0.0
    hair = sketch.fur.length * scale if sketch.fur is not None else 0.0
    x, y, width, height = _window(centre, span, smear + hair * 2 + 2, size)
    affine[:, 2] -= (x, y)
    samples = sketch.render(rng, affine, width, height, thinnest=rng.uniform(0.7, 1.3))
    layer = paint(rng, samples, sketch.parts, x, y, size, textures, palette)
    return _smear(rng, layer, smear) if smear else layer


def _window(
    centre: Float[np.ndarray, "2"], span: Float[np.ndarray, "2"], margin: float, size: int
) -> tuple[int, int, int, int]:
    """Left, upper, width and height of what is drawn: the object's box and its margin, less what is far outside."""
    beyond = int(np.ceil(margin))
    low = np.maximum(np.floor(centre - span / 2 - margin), -beyond).astype(int)
    high = np.minimum(np.ceil(centre + span / 2 + margin), size + beyond).astype(int)
    extent = np.maximum(high - low, 4)
    return int(low[0]), int(low[1]), int(extent[0]), int(extent[1])


def _smear(rng: np.random.Generator, layer: Layer, length: float) -> Layer:
    """The layer in motion: light and coverage are averaged along the path alike."""
    kernel = motion_kernel(rng, length)
    alpha = cv2.filter2D(layer.alpha, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    lit = cv2.multiply(layer.colour, cv2.merge([layer.alpha] * 3))
    lit = cv2.filter2D(lit, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    inverse = 1 / np.maximum(alpha, 1e-4)
    named = [cv2.filter2D(part, -1, kernel, borderType=cv2.BORDER_REPLICATE) for part in layer.named]
    return Layer(layer.x, layer.y, cv2.multiply(lit, cv2.merge([inverse] * 3)), alpha, named)


def _overlap(layer: Layer, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where frame and layer overlap: rows and columns of the frame, and of the layer."""
    height, width = layer.alpha.shape
    x0, y0, x1, y1 = max(layer.x, 0), max(layer.y, 0), min(layer.x + width, size), min(layer.y + height, size)
    x1, y1 = max(x1, x0), max(y1, y0)
    inner = slice(y0 - layer.y, y1 - layer.y), slice(x0 - layer.x, x1 - layer.x)
    return (slice(y0, y1), slice(x0, x1)), inner


def _spread(plane: Float32[np.ndarray, "h w"], layer: Layer, size: int) -> Plane:
    """A plane of the layer in the whole frame."""
    whole = np.zeros((size, size), np.float32)
    outer, inner = _overlap(layer, size)
    whole[outer] = plane[inner]
    return whole


def _put(scene: Float32[np.ndarray, "size size 3"], layer: Layer) -> Float32[np.ndarray, "size size 3"]:
    """The scene with the layer over it."""
    outer, inner = _overlap(layer, len(scene))
    alpha = np.ascontiguousarray(layer.alpha[inner])
    if alpha.size:
        under, over = np.ascontiguousarray(scene[outer]), np.ascontiguousarray(layer.colour[inner])
        scene[outer] = cv2.blendLinear(under, over, 1 - alpha, alpha)
    return scene


def _cast_shadow(
    rng: np.random.Generator, scene: Float32[np.ndarray, "size size 3"], layer: Layer
) -> Float32[np.ndarray, "size size 3"]:
    """Darkens the scene beside or under the layer by a shifted, flattened and blurred copy of its coverage."""
    size = len(scene)
    flat = rng.uniform(0.15, 1.0)
    shear = rng.normal(0, 0.4)
    floor = layer.y + layer.alpha.shape[0]
    shift = rng.normal(0, 0.03, 2) * size
    # A point (x, y) of the layer falls to (x + shear * (floor - y), floor - flat * (floor - y)).
    to_frame = np.array(
        [
            [1, -shear, layer.x + shear * (floor - layer.y) + shift[0]],
            [0, flat, floor - flat * (floor - layer.y) + abs(shift[1]) * flat],
        ]
    )
    shade = cv2.warpAffine(layer.alpha, to_frame, (size, size))
    shade = cv2.GaussianBlur(shade, (0, 0), rng.uniform(0.004, 0.03) * size)
    light = 1 - shade * np.float32(rng.uniform(0.15, 0.7))
    return cv2.multiply(scene, cv2.merge([light, light, light]))


def _salient(visible: Plane, whole: Plane) -> bool:
    """Whether a target is neither too small nor too large nor mostly hidden, and firm somewhere."""
    area = float(visible.mean())
    return (
        SMALLEST <= area <= LARGEST
        and area >= VISIBLE * float(whole.mean())
        and float((visible > 0.5).mean()) >= SMALLEST / 2
    )
