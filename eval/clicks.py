"""The clicking robot of interactive segmentation, and the number of clicks it needs (NoC)."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool

from .metrics import tight_window

__all__ = ["Click", "next_click", "number_of_clicks"]


class Click(NamedTuple):
    """A click in pixels; label 1 on the object, 0 off it."""

    x: int
    y: int
    label: int

    @property
    def point(self) -> tuple[float, float, int]:
        """As a point of a `Prompt`."""
        return float(self.x), float(self.y), self.label


def next_click(
    prediction: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], clicks: tuple[Click, ...] = ()
) -> Click:
    """A click at the centre of the largest error, the error's pixel that is farthest from its edge.

    `Clicker` of https://github.com/SamsungLabs/ritm_interactive_segmentation: the image's border is an edge, pixels
    that were clicked already are left out, and among equals the first in reading order is taken.

    Args:
      prediction: the mask so far; empty before the first click.
      truth: of the same size.
      clicks: the clicks so far.
    """
    depths = [_depth(truth & ~prediction), _depth(prediction & ~truth)]
    for depth in depths:
        for click in clicks:
            depth[click.y, click.x] = 0
    missed, surplus = depths
    label = int(missed.max() > surplus.max())
    y, x = np.unravel_index((missed if label else surplus).argmax(), truth.shape)
    return Click(int(x), int(y), label)


def number_of_clicks(ious: list[float], target: float, limit: int) -> int:
    """The first click after which the IoU is at least `target`; `limit` if there is none, as is usual.

    Args:
      ious: after each click.
      target: in [0, 1].
      limit: the number of clicks that the robot may make.
    """
    return next((count for count, value in enumerate(ious, start=1) if value >= target), limit)


def _depth(error: np.ndarray) -> np.ndarray:
    """The square of how far each pixel is from the error's edge; 0 outside it.

    Squares are whole numbers, so equals are equal: roots differ in the last digit, by where they lie in memory.
    """
    depth = np.zeros(error.shape, np.int64)
    window = tight_window(error)
    if error[window].size:
        padded = np.pad(error[window], 1).astype(np.uint8)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        depth[window] = np.rint(distance.astype(np.float64) ** 2)
    return depth
