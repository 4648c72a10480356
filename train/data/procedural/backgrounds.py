"""What lies behind the objects: a photo, or textures in regions, with light and far clutter."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from .colours import ramp
from .painting import Look
from .shapes import blob, spline
from .sketch import SUPERSAMPLING, coverage
from .textures import Textures

__all__ = ["background"]

Scene = Float32[np.ndarray, "h w 3"]


def background(
    rng: np.random.Generator, size: int, textures: Textures, look: Look
) -> tuple[Scene, list[Float32[np.ndarray, "h w"]]]:
    """A background and the coverage, 0..1, of each of its regions that is in one piece."""
    if textures.photos and rng.random() < 0.6:
        return textures.crop(rng, size, size).astype(np.float32), []
    kind = rng.random()
    if kind < 0.25:
        labels, count = np.zeros((size * SUPERSAMPLING,) * 2, np.uint8), 1
    elif kind < 0.6:
        labels, count = _horizons(rng, size)
    elif kind < 0.75:
        labels, count = _panes(rng, size)
    else:
        labels, count = _heap(rng, size)
    scene = np.zeros((size, size, 3), np.uint8)
    total = np.zeros((size, size), np.float32)
    regions = []
    for number in range(count):
        window, cover = coverage(labels, number)
        if not cover.size:
            continue
        region = np.zeros((size, size), np.float32)
        region[window] = cover
        surface = _surface(rng, cover.shape[1], cover.shape[0], size, textures, look)
        scene[window] = cv2.blendLinear(scene[window], surface, total[window], region[window])
        total += region
        regions.append(region / 255)
    return _light(rng, scene.astype(np.float32)), [] if kind >= 0.75 else regions


def _surface(
    rng: np.random.Generator, width: int, height: int, frame: int, textures: Textures, look: Look
) -> UInt8[np.ndarray, "height width 3"]:
    if textures.photos and rng.random() < 0.5:
        return textures.crop(rng, width, height)
    count = int(rng.choice([1, 1, 2, 3]))
    colours = [look.colours[rng.integers(len(look.colours))] for _ in range(count)]
    contrast = float(np.clip(rng.lognormal(1.9, 0.8), 0.5, 30))
    return textures.cut(rng, width, height, frame, ramp(rng, colours, contrast))


def _horizons(rng: np.random.Generator, size: int) -> tuple[UInt8[np.ndarray, "h4 w4"], int]:
    """Two to four bands under each other: sky, hills, a wall, the ground."""
    side = size * SUPERSAMPLING
    labels = np.zeros((side, side), np.uint8)
    count = int(rng.integers(2, 5))
    for number, level in enumerate(np.sort(rng.uniform(0.1, 0.95, count - 1)), start=1):
        wild = rng.choice([0.0, 0.01, 0.05, 0.12])
        knots = np.stack([np.linspace(-0.1, 1.1, 9), level + rng.normal(0, wild, 9)], axis=-1)
        knots[:, 1] += rng.normal(0, 0.06) * (knots[:, 0] - 0.5)
        ridge = np.concatenate([spline(knots, 8), [[1.1, 1.2], [-0.1, 1.2]]])
        cv2.fillPoly(labels, [np.round(ridge * side).astype(np.int32)], number)
    return labels, count


def _panes(rng: np.random.Generator, size: int) -> tuple[UInt8[np.ndarray, "h4 w4"], int]:
    """A room or a facade: rectangles over a wall."""
    side = size * SUPERSAMPLING
    labels = np.zeros((side, side), np.uint8)
    count = int(rng.integers(3, 9))
    for number in range(1, count):
        x, y = rng.uniform(-0.2, 0.9, 2)
        w, h = rng.uniform(0.08, 0.7, 2)
        corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]]) + rng.normal(0, 0.015, (4, 2))
        cv2.fillPoly(labels, [np.round(corners * side).astype(np.int32)], number)
    return labels, count


def _heap(rng: np.random.Generator, size: int) -> tuple[UInt8[np.ndarray, "h4 w4"], int]:
    """Blobs over each other from large to small, in a few textures."""
    side = size * SUPERSAMPLING
    labels = np.zeros((side, side), np.uint8)
    count = int(rng.integers(3, 7))
    for radius in np.geomspace(0.5, rng.uniform(0.03, 0.15), int(rng.integers(6, 25))):
        outline = rng.uniform(0, 1, 2) + blob(rng, 0.25, 40) * radius * [1, rng.uniform(0.4, 1)]
        cv2.fillPoly(labels, [np.round(outline * side).astype(np.int32)], int(rng.integers(0, count)))
    return labels, count


def _light(rng: np.random.Generator, scene: Scene) -> Scene:
    """A gradient and a few soft shadows over the whole."""
    coarse = 1 + rng.normal(0, 0.12, (5, 5)).astype(np.float32)
    ys, xs = np.linspace(-1, 1, 5, dtype=np.float32), np.linspace(-1, 1, 5, dtype=np.float32)
    fall = rng.normal(0, 0.15, 2).astype(np.float32)
    coarse += fall[0] * ys[:, None] + fall[1] * xs[None]
    light = cv2.resize(np.maximum(coarse, 0.2), scene.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.multiply(scene, cv2.merge([light, light, light]))
