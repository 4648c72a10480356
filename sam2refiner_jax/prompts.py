"""Users' prompts: checked, brought to the model's coordinates, and put into slots of a static shape."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from .nn.prompt_encoder import ABSENT, BOX_END, BOX_START, NEGATIVE, NOT_A_POINT, POSITIVE, Prompts

__all__ = ["ObjectPrompts", "pack_prompts", "read_prompts"]

# Slots hold this many clicks, doubled until all fit, and always a box and the padding point besides.
CLICK_SLOTS = 8


@dataclasses.dataclass(frozen=True)
class ObjectPrompts:
    """Prompts of one photo's objects in the model's coordinates.

    Attributes:
      points: (x, y) in pixels of the model's input: a box's two corners, then clicks, then the padding point.
      labels: what each point is (`nn.prompt_encoder`).
      mask: logits of an earlier mask, if that is a prompt.
    """

    points: Float[np.ndarray, "objects n 2"]
    labels: Int[np.ndarray, "objects n"]
    mask: Float[np.ndarray, "objects m m"] | None

    def __len__(self) -> int:
        return len(self.points)


def read_prompts(
    point_coords: ArrayLike | None,
    point_labels: ArrayLike | None,
    box: ArrayLike | None,
    mask_input: ArrayLike | None,
    *,
    photo_size: tuple[int, int],
    image_size: int,
    normalize_coords: bool = True,
) -> ObjectPrompts:
    """Checks prompts as users give them and brings them to the model's coordinates.

    Args:
      point_coords: (n, 2) or (objects, n, 2), x and y.
      point_labels: (n,) or (objects, n); 1 for a click on the object, 0 for one off it.
      box: (4,) or (objects, 4); x0, y0, x1, y1.
      mask_input: (1, m, m) or (objects, 1, m, m) low-resolution logits; m is a quarter of `image_size`.
      photo_size: height and width of the photo.
      image_size: side of the model's input.
      normalize_coords: True if coordinates are in pixels of the photo, False if in [0, 1] of its width and height.

    Raises:
      ValueError: naming the argument, what it must be and what it is.
    """
    limits = np.array([photo_size[1], photo_size[0]] if normalize_coords else [1, 1], np.float32)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    if box is not None:
        corners = _read_boxes(box, limits)
        parts.append((corners, np.broadcast_to(np.array([BOX_START, BOX_END], np.int32), corners.shape[:2])))
    if point_coords is not None:
        parts.append(_read_points(point_coords, point_labels, limits))
    elif point_labels is not None:
        raise ValueError("point_coords must be given where point_labels are")
    mask = None if mask_input is None else _read_mask(mask_input, image_size // 4)

    counts = {len(points) for points, _ in parts} | ({len(mask)} if mask is not None else set())
    objects = max(counts, default=1)
    if counts - {1, objects}:
        raise ValueError(f"points, boxes and masks must be for the same number of objects, got {sorted(counts)}")
    if parts:  # A padding point ends every set of points, as officially; a lone mask prompt has none.
        parts.append((np.zeros((1, 1, 2), np.float32), np.full((1, 1), NOT_A_POINT, np.int32)))
    points = np.concatenate(
        [np.broadcast_to(p, (objects, *p.shape[1:])) for p, _ in parts] or [np.zeros((objects, 0, 2), np.float32)],
        axis=1,
    )
    labels = np.concatenate(
        [np.broadcast_to(x, (objects, *x.shape[1:])) for _, x in parts] or [np.zeros((objects, 0), np.int32)], axis=1
    )
    points = points / limits * np.float32(image_size)
    if mask is not None:
        mask = np.broadcast_to(mask, (objects, *mask.shape[1:]))
    return ObjectPrompts(points, labels, mask)


def pack_prompts(prompts: Sequence[ObjectPrompts], mask_size: int, rows: int = 1) -> Prompts:
    """All objects' prompts in one batch of static shape, of at least `rows` rows.

    Clicks and objects are padded to the next bucket: 8, 16, 32... clicks and 1, 2, 4, 8... objects. Padded slots
    take no part in attention and rows of padded objects come last, so neither changes a result.
    """
    clicks = max(int(((p.labels == NEGATIVE) | (p.labels == POSITIVE)).sum(axis=1).max(initial=0)) for p in prompts)
    slots = _bucket(clicks, CLICK_SLOTS) + 3
    objects = sum(map(len, prompts))
    rows = max(rows, _bucket(objects, 1))
    points = np.zeros((rows, slots, 2), np.float32)
    labels = np.full((rows, slots), ABSENT, np.int32)
    mask = np.zeros((rows, mask_size, mask_size), np.float32)
    has_mask: Bool[np.ndarray, " rows"] = np.zeros(rows, bool)
    start = 0
    for p in prompts:
        here = slice(start, start + len(p))
        points[here, : p.points.shape[1]] = p.points
        labels[here, : p.labels.shape[1]] = p.labels
        if p.mask is not None:
            mask[here] = p.mask
            has_mask[here] = True
        start += len(p)
    return Prompts(points=points, labels=labels, mask=mask, has_mask=has_mask)


def _bucket(count: int, smallest: int) -> int:
    size = smallest
    while size < count:
        size *= 2
    return size


def _read_array(name: str, value: ArrayLike, shapes: str, ndims: tuple[int, int], last: int) -> np.ndarray:
    """A finite float32 array of one of two ranks; the lower one gets an axis of objects in front."""
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape {shapes}, got {value!r}") from error
    if array.ndim not in ndims or array.shape[-1] != last or 0 in array.shape:
        raise ValueError(f"{name} must have shape {shapes}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array if array.ndim == max(ndims) else array[None]


def _read_points(coords: ArrayLike, labels: ArrayLike | None, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points = _read_array("point_coords", coords, "(n, 2) or (objects, n, 2)", (2, 3), 2)
    if labels is None:
        raise ValueError("point_labels must be given where point_coords are")
    kinds = np.asarray(labels)
    if kinds.ndim == 1:
        kinds = kinds[None]
    if kinds.shape != points.shape[:2]:
        raise ValueError(
            f"point_labels must have one label for each point, shape {points.shape[:2]}, got {np.shape(labels)}"
        )
    if not np.isin(kinds, (NEGATIVE, POSITIVE)).all():
        raise ValueError(f"point_labels must be 0 or 1, got {kinds[~np.isin(kinds, (NEGATIVE, POSITIVE))][0]}")
    outside = ((points < 0) | (points > limits)).any(axis=-1)
    if outside.any():
        raise ValueError(
            f"point_coords must lie in the photo, x in [0, {limits[0]:g}] and y in [0, {limits[1]:g}], "
            f"got {points[outside][0].tolist()}"
        )
    return points, kinds.astype(np.int32)


def _read_boxes(box: ArrayLike, limits: np.ndarray) -> np.ndarray:
    boxes = _read_array("box", box, "(4,) or (objects, 4)", (1, 2), 4)
    corners = boxes.reshape(-1, 2, 2)
    empty = (corners[:, 1] <= corners[:, 0]).any(axis=-1)
    if empty.any():
        raise ValueError(f"box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {boxes[empty][0].tolist()}")
    # A detector's box may reach over the edge, but must touch the photo.
    outside = ((corners[:, 1] <= 0) | (corners[:, 0] >= limits)).any(axis=-1)
    if outside.any():
        raise ValueError(
            f"box must overlap the photo of {limits[0]:g} x {limits[1]:g}, got {boxes[outside][0].tolist()}"
        )
    return corners


def _read_mask(mask_input: ArrayLike, side: int) -> np.ndarray:
    shapes = f"(1, {side}, {side}) or (objects, 1, {side}, {side})"
    mask = _read_array("mask_input", mask_input, shapes, (3, 4), side)
    if mask.shape[1:] != (1, side, side):
        raise ValueError(f"mask_input must have shape {shapes}, got {np.shape(mask_input)}")
    return mask[:, 0]
