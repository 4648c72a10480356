"""Masks damaged on purpose, as rough ones that are to be made finer."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool

__all__ = ["WAYS", "roughen"]

Mask = Bool[np.ndarray, "h w"]
# Side of the square that masks shrink or grow by, as a share of the root of their area; corners of polygons.
GROWTH, CORNERS, BLOCK = 0.08, 12, 8


def _kernel(mask: Mask) -> np.ndarray:
    side = max(3, 2 * round(0.5 * GROWTH * float(np.sqrt(mask.sum()))) + 1)
    return np.ones((side, side), np.uint8)


def _eroded(mask: Mask) -> np.ndarray:
    return cv2.erode(mask.astype(np.uint8), _kernel(mask))


def _dilated(mask: Mask) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), _kernel(mask))


def _polygon(mask: Mask) -> np.ndarray:
    """The largest part's outline, of a few of its points."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)
    corners = outline[np.linspace(0, len(outline), CORNERS, endpoint=False).astype(int)]
    return cv2.fillPoly(np.zeros(mask.shape, np.uint8), [corners], 1)


def _blocks(mask: Mask) -> np.ndarray:
    """Made eight times smaller, and large again."""
    height, width = mask.shape
    size = max(1, width // BLOCK), max(1, height // BLOCK)
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.resize((small > 0.5).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)


WAYS: dict[str, Callable[[Mask], np.ndarray]] = {
    "eroded": _eroded,
    "dilated": _dilated,
    "polygon": _polygon,
    "blocks": _blocks,
}


def roughen(mask: Mask, way: str) -> Mask:
    """The mask damaged in one of the `WAYS`; as it was where nothing would be left of it.

    Raises:
      ValueError: on another way.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    rough = WAYS[way](mask) > 0
    return rough if rough.any() else mask
