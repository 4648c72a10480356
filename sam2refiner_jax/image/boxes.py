"""Boxes of masks."""

import numpy as np
from jaxtyping import Bool

__all__ = ["box_around", "corners_of"]


def box_around(mask: Bool[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1: the object's first and last columns and rows, as HQ-SAM's `masks_to_boxes` gives them.

    An object of one column or row gets a box one pixel wider, as a box must have an inside.

    Args:
      mask: the object, not empty.
    """
    x0, y0, x1, y1 = map(float, corners_of(mask))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def corners_of(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """First column, first row, last column and last row of a mask; zeros of an empty one."""
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    return (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])) if len(rows) else (0, 0, 0, 0)
