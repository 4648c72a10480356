"""Users' prompts: checked, brought to the model's coordinates, and put into slots of a static shape."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from ..nn.prompt_encoder import ABSENT, BOX_END, BOX_START, NEGATIVE, NOT_A_POINT, POSITIVE, Prompts
from .canvas import Fit, canvas_of

__all__ = ["ObjectPrompts", "bucket", "pack_prompts", "read_prompts", "to_numpy"]

# Slots hold this many clicks, doubled until all fit, and always a box and the padding point besides.
CLICK_SLOTS = 8
# What users may call a point: the official labels.
LABELS = (NOT_A_POINT, NEGATIVE, POSITIVE, BOX_START, BOX_END)
# How far beyond the photo's edge a click may be, by its width and height: a hand slips, or a tool rounds up. The
# official package takes any; much farther ones are of another photo, or swap x and y.
BEYOND_EDGE = 0.25


@dataclasses.dataclass(frozen=True)
class ObjectPrompts:
    """Prompts of one photo's objects in the model's coordinates.

    Attributes:
      points: (x, y) in pixels of the model's input: a box's two corners, then clicks, then the padding point.
      labels: what each point is (`LABELS`).
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
    fit: Fit = "squeeze",
) -> ObjectPrompts:
    """Checks prompts as users give them and brings them to the model's coordinates.

    Arrays of PyTorch and JAX, on any device and of any type, are read like those of NumPy.

    Args:
      point_coords: (n, 2) or (objects, n, 2), x and y; n may be 0. A click may lie a little beyond the photo's edge.
      point_labels: (n,) or (objects, n); 1 for a click on the object, 0 for one off it, 2 and 3 for a box's top left
        and bottom right corner, -1 for a point that only pads.
      box: (4,) or (objects, 4), x0, y0, x1, y1; or (2, 2) or (objects, 2, 2), two corners.
      mask_input: (1, m, m) or (objects, 1, m, m) low-resolution logits; m is a quarter of `image_size`.
      photo_size: height and width of the photo.
      image_size: side of the model's input.
      normalize_coords: True if coordinates are in pixels of the photo, False if in [0, 1] of its width and height.
      fit: whether the photo is squeezed or padded to a square.

    Raises:
      ValueError: naming the argument, what it must be and what it is.
    """
    limits = np.array([photo_size[1], photo_size[0]] if normalize_coords else [1, 1], np.float32)
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if box is not None:
        corners = _read_boxes(box, limits)
        parts["box"] = corners, np.broadcast_to(np.array([BOX_START, BOX_END], np.int32), corners.shape[:2])
    if point_coords is not None:
        parts["point_coords"] = _read_points(point_coords, point_labels, limits)
    elif point_labels is not None:
        raise ValueError("point_coords must be given where point_labels are")
    mask = None if mask_input is None else _read_mask(mask_input, image_size // 4)

    # As officially, clicks belong to one box each, while one mask serves all objects and one object's points all masks.
    prompted = {name: len(points) for name, (points, _) in parts.items()}
    counts = prompted | ({} if mask is None else {"mask_input": len(mask)})
    objects = max(counts.values(), default=1)
    if len({*prompted.values()}) > 1 or {*counts.values()} - {1, objects}:
        raise ValueError(
            "points, boxes and masks must be for the same number of objects, got "
            + ", ".join(f"{name} for {count}" for name, count in counts.items())
        )
    if parts:  # A padding point ends every set of points, as officially; a lone mask prompt has none.
        parts["padding"] = np.zeros((1, 1, 2), np.float32), np.full((1, 1), NOT_A_POINT, np.int32)
    points = _joined(objects, [points for points, _ in parts.values()], np.zeros((objects, 0, 2), np.float32))
    labels = _joined(objects, [kinds for _, kinds in parts.values()], np.zeros((objects, 0), np.int32))
    canvas = canvas_of(photo_size, fit)
    shares = np.array([photo_size[1] / canvas[1], photo_size[0] / canvas[0]], np.float32)
    points = points / limits * shares * np.float32(image_size)
    if mask is not None:
        mask = np.broadcast_to(mask, (objects, *mask.shape[1:]))
    return ObjectPrompts(points, labels, mask)


def pack_prompts(prompts: Sequence[ObjectPrompts], mask_size: int, rows: int = 1) -> Prompts:
    """All objects' prompts in one batch of static shape, of at least `rows` rows.

    Clicks and objects are padded to the next bucket: 8, 16, 32... clicks and 1, 2, 4, 8... objects. Padded slots
    take no part in attention and rows of padded objects come last, so neither changes a result.
    """
    slots = bucket(max(p.labels.shape[1] for p in prompts) - 3, CLICK_SLOTS) + 3
    objects = sum(map(len, prompts))
    rows = max(rows, bucket(objects))
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


def _joined(objects: int, parts: Sequence[np.ndarray], nothing: np.ndarray) -> np.ndarray:
    return np.concatenate([nothing, *(np.broadcast_to(x, (objects, *x.shape[1:])) for x in parts)], axis=1)


def bucket(count: int, smallest: int = 1) -> int:
    """What `count` rows or slots are padded to: `smallest`, or the next power of two times it."""
    size = smallest
    while size < count:
        size *= 2
    return size


def to_numpy(value: Any) -> np.ndarray:
    """An array of NumPy, JAX or PyTorch, or nested lists of numbers, as one of NumPy."""
    if hasattr(value, "detach"):  # PyTorch's: NumPy can read none with a gradient, on a GPU, or in bfloat16
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def _read_numbers(name: str, value: ArrayLike, shapes: str) -> Float[np.ndarray, "..."]:
    """The value as finite float32.

    Raises:
      ValueError: naming the argument, if it is anything else; `shapes` says what it should be.
    """
    try:
        array = to_numpy(value).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape {shapes}, got {value!r}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def _read_points(coords: ArrayLike, labels: ArrayLike | None, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shapes = "(n, 2) or (objects, n, 2)"
    given = _read_numbers("point_coords", coords, shapes)
    points = given.reshape(0, 2) if given.shape == (0,) else given  # an empty list
    points = points[None] if points.ndim == 2 else points
    if points.ndim != 3 or points.shape[-1] != 2 or not len(points):
        raise ValueError(f"point_coords must have shape {shapes}, got {given.shape}")
    if labels is None:
        raise ValueError("point_labels must be given where point_coords are")
    kinds = given_kinds = _read_numbers("point_labels", labels, "(n,) or (objects, n)")
    kinds = kinds[None] if kinds.ndim == 1 else kinds
    if kinds.shape != points.shape[:2]:
        raise ValueError(
            f"point_labels must have one label for each point, shape {points.shape[:2]}, got {given_kinds.shape}"
        )
    if not np.isin(kinds, LABELS).all():
        raise ValueError(
            "point_labels must be 1 (on the object), 0 (off it), 2 and 3 (a box's corners) or -1 (padding), "
            f"got {kinds[~np.isin(kinds, LABELS)][0]:g}"
        )
    slack = BEYOND_EDGE * limits
    outside = ((points < -slack) | (points > limits + slack)).any(axis=-1) & np.isin(kinds, (NEGATIVE, POSITIVE))
    if outside.any():
        raise ValueError(
            f"point_coords must lie in the photo, x in [0, {limits[0]:g}] and y in [0, {limits[1]:g}], "
            f"or little beyond its edge; got {points[outside][0].tolist()}"
        )
    return points, kinds.astype(np.int32)


def _read_boxes(box: ArrayLike, limits: np.ndarray) -> np.ndarray:
    shapes = "(4,), (2, 2), (objects, 4) or (objects, 2, 2)"
    boxes = _read_numbers("box", box, shapes)
    if not boxes.size or not (boxes.shape[-1:] == (4,) or boxes.shape[-2:] == (2, 2)):
        raise ValueError(f"box must have shape {shapes}, got {boxes.shape}")
    corners = boxes.reshape(-1, 2, 2)
    empty = (corners[:, 1] <= corners[:, 0]).any(axis=-1)
    if empty.any():
        raise ValueError(
            f"box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {corners[empty][0].ravel().tolist()}"
        )
    # A detector's box may reach over the edge, but must touch the photo.
    outside = ((corners[:, 1] <= 0) | (corners[:, 0] >= limits)).any(axis=-1)
    if outside.any():
        raise ValueError(
            f"box must overlap the photo of {limits[0]:g} x {limits[1]:g}, got {corners[outside][0].ravel().tolist()}"
        )
    return corners


def _read_mask(mask_input: ArrayLike, side: int) -> np.ndarray:
    shapes = f"(1, {side}, {side}) or (objects, 1, {side}, {side})"
    given = _read_numbers("mask_input", mask_input, shapes)
    mask = given[None] if given.ndim == 3 else given
    if mask.shape[1:] != (1, side, side) or not len(mask):
        raise ValueError(f"mask_input must have shape {shapes}, got {given.shape}")
    return mask[:, 0]
