"""Boxes of masks."""

import numpy as np
from jaxtyping import Bool

__all__ = ["box_around"]


def box_around(mask: Bool[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1: the object's first and last columns and rows, as HQ-SAM's `masks_to_boxes` gives them.

    An object of one column or row gets a box one pixel wider, as a box must have an inside.

    Args:
      mask: the object, not empty.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x0, y0, x1, y1 = (float(edge) for edge in (columns[0], rows[0], columns[-1], rows[-1]))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
