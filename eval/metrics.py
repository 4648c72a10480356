"""Measures of image masks: IoU and Boundary IoU, as HQ-SAM computes them."""

import cv2
import numpy as np
from jaxtyping import Bool

__all__ = ["OBJECT", "boundary_iou", "iou", "mask_boundary", "tight_window", "truth_of"]

# HQ-SAM takes a pixel for the object where the truth is brighter.
OBJECT = 128
DILATION_RATIO = 0.02

# Of one size, which is checked with a message of its own.
Mask = Bool[np.ndarray, "_ _"]


def truth_of(coverage: np.ndarray) -> np.ndarray:
    """The object in a picture of 0 to 255, as HQ-SAM cuts it."""
    return coverage > OBJECT


def iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union, in [0, 1]; 1 where both masks are empty (HQ-SAM's would be undefined).

    Raises:
      ValueError: if the masks differ in size.
    """
    rows, columns = tight_window(prediction, truth)
    return _iou(prediction[rows, columns], truth[rows, columns])


def boundary_iou(prediction: Mask, truth: Mask, dilation_ratio: float = DILATION_RATIO) -> float:
    """IoU of what lies near the masks' inner boundaries, in [0, 1]; 1 where both masks are empty.

    `boundary_iou` of HQ-SAM's train/utils/misc.py (https://arxiv.org/abs/2103.16562).

    Args:
      prediction: at the image's original size.
      truth: of the same size.
      dilation_ratio: width of the boundary, as a share of the image's diagonal.

    Raises:
      ValueError: if the masks differ in size.
    """
    rows, columns = tight_window(prediction, truth)
    width = _boundary_width(truth.shape, dilation_ratio)
    return _iou(_boundary(prediction[rows, columns], width), _boundary(truth[rows, columns], width))


def mask_boundary(mask: Mask, dilation_ratio: float = DILATION_RATIO) -> Bool[np.ndarray, "h w"]:
    """The pixels of the mask that 3x3 erosions take off it; what lies beyond the image's border counts as empty."""
    return _boundary(mask, _boundary_width(mask.shape, dilation_ratio))


def tight_window(*masks: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest window that holds all pixels of all masks; empty if they are.

    Raises:
      ValueError: if the masks differ in size.
    """
    if len({mask.shape for mask in masks}) > 1:
        sizes = " and ".join(f"{mask.shape[1]} x {mask.shape[0]}" for mask in masks)
        raise ValueError(f"masks must be of one size, got {sizes}")
    spans = []
    for axis in (1, 0):
        where = np.flatnonzero(np.any([mask.any(axis=axis) for mask in masks], axis=0))
        spans.append(slice(where[0], where[-1] + 1) if len(where) else slice(0, 0))
    return spans[0], spans[1]


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def _boundary_width(size: tuple[int, ...], dilation_ratio: float) -> int:
    return max(1, round(dilation_ratio * float(np.linalg.norm(size))))


def _boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Of a window that holds all of the mask, so that all around it is empty, be it image or not.

    `width` erosions leave the pixels whose square of 2 * width + 1 lies in the mask; to count its pixels is exact, and
    takes no longer where the square is large.
    """
    if not mask.size:
        return mask
    side = 2 * width + 1
    inside = cv2.boxFilter(
        mask.astype(np.uint8), cv2.CV_32S, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return mask & (inside < side * side)
