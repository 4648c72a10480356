"""From low-resolution mask logits to masks of the photo's own size, on the host: no photo size compiles anything."""

import cv2
import numpy as np
from jaxtyping import Float

from ..nn.resize import bilinear_matrix

__all__ = ["fill_holes", "fill_holes_and_remove_specks", "resize_masks"]

# What the video predictor fills holes with.
HOLE_LOGIT = 0.1


def resize_masks(
    logits: Float[np.ndarray, "*batch m n"], size: tuple[int, int], canvas: tuple[int, int] | None = None
) -> Float[np.ndarray, "*batch h w"]:
    """Mask logits at `size` = (height, width), bilinear with half-pixel centres.

    Args:
      logits: of the model's input.
      size: of the photo.
      canvas: height and width of what became the input, in pixels of the photo (`canvas_of`); the photo itself unless
        given.
    """
    (height, width), (all_rows, all_columns) = size, canvas or size
    flat = np.ascontiguousarray(logits.reshape(-1, *logits.shape[-2:]), dtype=np.float32)
    # The canvas may be many times the photo: along a padded side only what the photo covers is made.
    if all_rows > height:
        flat = bilinear_matrix(flat.shape[1], all_rows)[:height] @ flat
    if all_columns > width:
        flat = flat @ bilinear_matrix(flat.shape[2], all_columns)[:width].T
    resized = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) for mask in flat]
    return np.stack(resized).reshape(*logits.shape[:-2], height, width)


def fill_holes_and_remove_specks(
    logits: Float[np.ndarray, "*batch m n"], threshold: float, max_hole_area: float, max_sprinkle_area: float
) -> Float[np.ndarray, "*batch m n"]:
    """Fills holes and removes specks of at most the given areas, in pixels of the logits (8-connected).

    An area of 0 leaves the logits as they are. Both are found in the mask as it came, so a speck inside a hole that
    was just filled goes as well, as officially. (The official package does this only where its CUDA extension is
    built.)
    """
    result = np.array(logits, dtype=np.float32)
    for source, target in zip(
        logits.reshape(-1, *logits.shape[-2:]), result.reshape(-1, *logits.shape[-2:]), strict=True
    ):
        if max_hole_area > 0:
            target[_small_components(source <= threshold, max_hole_area)] = threshold + 10.0
        if max_sprinkle_area > 0:
            target[_small_components(source > threshold, max_sprinkle_area)] = threshold - 10.0
    return result


def _small_components(mask: np.ndarray, max_area: float) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= max_area
    small[0] = False  # label 0 is what lies outside the mask
    return small[labels]


def fill_holes(logits: Float[np.ndarray, "*batch m n"], max_area: int) -> Float[np.ndarray, "*batch m n"]:
    """Fills holes of at most this area with a logit just above zero, as the official video predictor does."""
    if max_area <= 0:
        return logits
    result = np.array(logits, dtype=np.float32)
    for mask in result.reshape(-1, *logits.shape[-2:]):
        mask[_small_components(mask <= 0, float(max_area))] = HOLE_LOGIT
    return result
