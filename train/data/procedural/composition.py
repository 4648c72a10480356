"""Layers onto the frame: over each other, into their places, their shadows and their motion."""

import cv2
import numpy as np
from jaxtyping import Float32

from .camera import motion_kernel
from .painting import Layer

__all__ = ["Plane", "cast_shadow", "put", "smear", "spread", "visible"]

Plane = Float32[np.ndarray, "size size"]


def smear(rng: np.random.Generator, layer: Layer, length: float) -> Layer:
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


def spread(plane: Float32[np.ndarray, "h w"], layer: Layer, size: int) -> Plane:
    """A plane of the layer in the whole frame."""
    whole = np.zeros((size, size), np.float32)
    outer, inner = _overlap(layer, size)
    whole[outer] = plane[inner]
    return whole


def put(scene: Float32[np.ndarray, "size size 3"], layer: Layer) -> Float32[np.ndarray, "size size 3"]:
    """The scene with the layer over it."""
    outer, inner = _overlap(layer, len(scene))
    alpha = np.ascontiguousarray(layer.alpha[inner])
    if alpha.size:
        under, over = np.ascontiguousarray(scene[outer]), np.ascontiguousarray(layer.colour[inner])
        scene[outer] = cv2.blendLinear(under, over, 1 - alpha, alpha)
    return scene


def cast_shadow(
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


def visible(layers: list[Layer], size: int) -> tuple[list[Plane], Plane]:
    """How much of each pixel shows each layer, the lowest first, and how much shows none of them."""
    free = np.ones((size, size), np.float32)
    planes = []
    for layer in reversed(layers):
        whole = spread(layer.alpha, layer, size)
        planes.append(whole * free)
        free = free * (1 - whole)
    return planes[::-1], free
