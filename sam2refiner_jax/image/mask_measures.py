"""What is asked of many masks at once, as they are in the photo: box, stability, and which are duplicates.

On accelerators all of it is computed at static shapes. A photo's own size compiles nothing: its rows and columns are
padded to the next multiple of `SIDE`, and how they are mixed of those of the logits is an argument, a matrix each. On
CPUs OpenCV is quicker.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from ..nn.resize import bilinear_matrix
from .boxes import corners_of
from .canvas import Fit, canvas_of
from .postprocess import resize_masks

__all__ = ["Grid", "Measures", "draw_masks", "measure_masks", "without_duplicates"]

SIDE = 512


class Measures(NamedTuple):
    """What `measure_masks` says of each mask.

    Attributes:
      stability: the IoU of the masks that a higher and a lower threshold give; not a number where both are empty.
      boxes: first column, first row, last column, last row; zeros of an empty mask.
    """

    stability: Float[np.ndarray, " k"]
    boxes: Int[np.ndarray, "k 4"]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A photo's pixels.

    Attributes:
      size: height and width.
      padded_to: size of another photo, such as the one that this is a part of, whose programs serve this one too.
      fit: whether the photo is squeezed or padded to a square.
    """

    size: tuple[int, int]
    padded_to: tuple[int, int]
    fit: Fit = "squeeze"

    def resize(self, masks: Float[np.ndarray, "*batch m n"]) -> Float[np.ndarray, "*batch h w"]:
        """Logits at the photo's size, on the host."""
        return resize_masks(masks, self.size, canvas_of(self.size, self.fit))

    def matrices(self, logits: int) -> tuple[Float[np.ndarray, "h m"], Float[np.ndarray, "w m"]]:
        """How the rows and the columns are mixed of those of logits of this side; zeros of what only pads."""
        rows, columns = (
            np.pad(bilinear_matrix(logits, whole)[:side], ((0, -(-other // SIDE) * SIDE - side), (0, 0)))
            for side, whole, other in zip(self.size, canvas_of(self.size, self.fit), self.padded_to, strict=True)
        )
        return rows, columns


def _on_host() -> bool:
    return jax.default_backend() == "cpu"


def measure_masks(masks: Float[Array, "n m m"], count: int, grid: Grid, threshold: float, offset: float) -> Measures:
    """Box and stability of masks, at the photo's size.

    Args:
      masks: logits.
      count: how many of them are wanted; the others only pad.
      grid: of the photo.
      threshold: logit above which a pixel belongs to a mask.
      offset: by how much it is raised and lowered for the stability.
    """
    if not _on_host():
        found = _measure(masks, *grid.matrices(masks.shape[-1]), threshold, offset)
        return Measures(*(np.asarray(x)[:count] for x in found))
    inner, outer, boxes = [], [], []
    for mask in np.asarray(masks)[:count]:
        enlarged = grid.resize(mask)
        inner.append(np.count_nonzero(enlarged > threshold + offset))
        outer.append(np.count_nonzero(enlarged > threshold - offset))
        boxes.append(corners_of(enlarged > threshold))
    with np.errstate(invalid="ignore"):
        return Measures(np.array(inner, np.float32) / np.array(outer, np.float32), np.array(boxes))


def draw_masks(masks: Float[Array, "n m m"], count: int, grid: Grid, threshold: float) -> UInt8[np.ndarray, "k h w8"]:
    """Masks of at least the photo's size, eight pixels of a row in a byte, the first in its highest bit.

    Args:
      masks: logits.
      count: how many of them are wanted; the others only pad.
      grid: of the photo.
      threshold: logit above which a pixel belongs to a mask.
    """
    if not _on_host():
        return np.asarray(_draw(masks, *grid.matrices(masks.shape[-1]), threshold)[:count])
    return np.packbits(grid.resize(np.asarray(masks)[:count]) > threshold, axis=-1)


def _enlarge(
    masks: Float[Array, "n m m"], rows: Float[Array, "h m"], columns: Float[Array, "w m"]
) -> Float[Array, "n h w"]:
    """Logits at the padded size, minus infinity where there is no photo."""
    enlarged = jnp.einsum("hm,nmk,wk->nhw", rows, masks, columns, precision="highest")
    return jnp.where(rows.any(axis=1)[:, None] & columns.any(axis=1), enlarged, -jnp.inf)


@jax.jit
def _measure(masks, rows, columns, threshold, offset) -> tuple[Float[Array, " n"], Int[Array, "n 4"]]:
    enlarged = _enlarge(masks, rows, columns)
    inner, outer = ((enlarged > threshold + shift).sum(axis=(1, 2)) for shift in (offset, -offset))
    inside = enlarged > threshold
    (x0, x1), (y0, y1) = (_extent(inside.any(axis=axis)) for axis in (1, 2))
    boxes = jnp.stack([x0, y0, x1, y1], axis=1)
    return inner / outer, jnp.where(inside.any(axis=(1, 2))[:, None], boxes, 0)


def _extent(lines: Bool[Array, "n k"]) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """The first and the last line of each mask."""
    return jnp.argmax(lines, axis=1), lines.shape[1] - 1 - jnp.argmax(lines[:, ::-1], axis=1)


@jax.jit
def _draw(masks, rows, columns, threshold) -> UInt8[Array, "n h w8"]:
    return jnp.packbits(_enlarge(masks, rows, columns) > threshold, axis=-1)


@jax.jit
def without_duplicates(
    boxes: Float[Array | np.ndarray, "n 4"],
    scores: Float[Array | np.ndarray, " n"],
    exists: Bool[Array | np.ndarray, " n"],
    threshold: float | Float[Array, ""],
) -> tuple[Int[Array, " n"], Bool[Array, " n"]]:
    """Non-maximum suppression: of boxes that overlap the one of the highest score stays.

    Args:
      boxes: x0, y0, x1, y1.
      scores: the higher the better; among equals the first is.
      exists: which rows are boxes; the others only pad.
      threshold: IoU above which two boxes are of one thing.

    Returns:
      The rows from the highest score to the lowest, and which of them stay.
    """
    order = jnp.argsort(jnp.where(exists, -scores, jnp.inf), stable=True)
    boxes = boxes[order]
    low, high = jnp.maximum(boxes[:, None, :2], boxes[:, :2]), jnp.minimum(boxes[:, None, 2:], boxes[:, 2:])
    overlap = jnp.maximum(high - low, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    duplicate = overlap / (areas[:, None] + areas - overlap) > threshold
    places = jnp.arange(len(order))

    def next_best(i, stays):
        return stays & ~(duplicate[i] & (places > i) & stays[i])

    return order, jax.lax.fori_loop(0, len(order), next_best, exists[order])
