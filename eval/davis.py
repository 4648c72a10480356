"""Measures of video masks: J, F and J&F, as the evaluation packages of DAVIS 2017 and LVOS compute them."""

import cv2
import numpy as np
from jaxtyping import Bool

from .metrics import iou, tight_window

__all__ = ["contour_accuracy", "region_similarity"]

# How far a contour may be off, as a share of the image's diagonal.
BOUND_TH = 0.008

# Of one size, which is checked with a message of its own.
Mask = Bool[np.ndarray, "_ _"]


def region_similarity(prediction: Mask, truth: Mask) -> float:
    """J: intersection over union, 1 where both masks are empty.

    Raises:
      ValueError: if the masks differ in size.
    """
    return iou(prediction, truth)


def contour_accuracy(prediction: Mask, truth: Mask, bound_th: float = BOUND_TH) -> float:
    """F: the harmonic mean of contour precision and recall, in [0, 1]; 1 where both masks are empty.

    `f_measure` of https://github.com/davisvideochallenge/davis2017-evaluation.

    Args:
      prediction: of one object in one frame.
      truth: of the same size.
      bound_th: how far apart contours may be that match, as a share of the image's diagonal.

    Raises:
      ValueError: if the masks differ in size.
    """
    rows, columns = (
        slice(max(0, span.start - 1), min(size, span.stop + 1))
        for span, size in zip(tight_window(prediction, truth), truth.shape, strict=True)
    )
    radius = np.ceil(bound_th * np.hypot(*truth.shape))
    found, expected = _contour(prediction[rows, columns]), _contour(truth[rows, columns])
    if not found.any() or not expected.any():
        return float(found.any() == expected.any())
    precision = np.mean(_distance_to(expected)[found] <= _within(radius))
    recall = np.mean(_distance_to(found)[expected] <= _within(radius))
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _contour(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the next one to the right, below or diagonally; one pixel wide."""
    if not mask.size:
        return mask
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ diagonal)


def _distance_to(contour: np.ndarray) -> np.ndarray:
    """Each pixel's distance to the nearest pixel of the contour."""
    return cv2.distanceTransform((~contour).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _within(radius: float) -> float:
    """A bound between `radius` and the next distance that pixels can have, against rounding."""
    return float(np.sqrt(radius * radius + 0.5))
