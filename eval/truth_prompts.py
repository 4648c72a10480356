"""What each object is prompted with: the truth's box, random points on it, or a rough mask that exists already."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..data.masks import EmptyMaskError, read_mask
from ..image.boxes import box_around
from ..image.canvas import Fit
from ..image.rough_masks import prompts_of

__all__ = [
    "BOX",
    "CLICKS",
    "Prompt",
    "folder_of_masks",
    "point_count",
    "prompt_from_mask",
    "prompt_from_truth",
    "random_points",
    "read_rough_mask",
]

BOX, CLICKS = "box", "clicks"
POINTS, MASKS = "points-", "masks:"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a segmenter is given to find one object.

    Attributes:
      box: x0, y0, x1, y1, the object's first and last columns and rows, as HQ-SAM gives them.
      points: clicks as x, y and label, 1 on the object and 0 off it.
      logits: of the mask that the same segmenter made of the clicks before, in a form of its own.
      carry: of its refiner, likewise.
      rough: a mask of the object, in which models find all their prompts (`for_model`); baselines take its box.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    logits: Float[np.ndarray, "1 _ _"] | None = None
    carry: Any = None
    rough: Bool[np.ndarray, "h w"] | None = None

    def for_model(self, mask_size: int, fit: Fit = "squeeze") -> "Prompt":
        """What a model is given: of a rough mask the box, the clicks and the logits that describe it.

        Args:
          mask_size: side of the model's mask prompts.
          fit: whether photos are squeezed or padded to a square.
        """
        if self.rough is None:
            return self
        found = prompts_of(self.rough, mask_size, fit)
        points = tuple((float(x), float(y), int(n)) for (x, y), n in zip(found.points, found.labels, strict=True))
        return Prompt(self.box, points, found.mask)

    @property
    def coordinates(self) -> Float[np.ndarray, "n 2"] | None:
        """The clicks' x and y, if there are clicks."""
        return np.array([point[:2] for point in self.points], np.float32) if self.points else None

    @property
    def labels(self) -> Int[np.ndarray, " n"] | None:
        """The clicks' labels, if there are clicks."""
        return np.array([point[2] for point in self.points], np.int32) if self.points else None

    @property
    def corners(self) -> Float[np.ndarray, "4"] | None:
        """The box as an array, if there is one."""
        return None if self.box is None else np.array(self.box, np.float32)


def point_count(kind: str) -> int | None:
    """How many points a prompt of this kind has; None for a box, for masks, and for clicks, which depend on the masks.

    Raises:
      ValueError: if there is no such kind.
    """
    count = kind.removeprefix(POINTS)
    if kind.startswith(POINTS) and count.isdecimal() and int(count) > 0:
        return int(count)
    if kind not in (BOX, CLICKS) and folder_of_masks(kind) is None:
        raise ValueError(f"a prompt must be {BOX}, {POINTS}N with N points, {CLICKS}, or {MASKS}FOLDER; got {kind!r}")
    return None


def folder_of_masks(kind: str) -> Path | None:
    """The folder of the rough masks that prompts of this kind are; None of other kinds."""
    return Path(kind.removeprefix(MASKS)) if kind.startswith(MASKS) and kind != MASKS else None


def read_rough_mask(folder: Path, name: str, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The rough mask of an item, FOLDER/NAME.png, of the photo's height and width; it may be empty.

    Raises:
      ValueError: naming the file, if it is not there or no mask of this size.
    """
    path = folder / f"{name}.png"
    if not path.is_file():
        raise ValueError(f"{path}, its rough mask, is not there")
    try:
        return read_mask(path, size)
    except EmptyMaskError:
        return np.zeros(size, bool)


def prompt_from_mask(rough: Bool[np.ndarray, "h w"]) -> Prompt | None:
    """The prompt that a rough mask is; None if it is empty."""
    return Prompt(box=box_around(rough), rough=rough) if rough.any() else None


def prompt_from_truth(kind: str, truth: Bool[np.ndarray, "h w"], name: str, seed: int) -> Prompt:
    """The prompt of this kind, `box` or `points-N`, for an object.

    Args:
      kind: of prompt.
      truth: the object, not empty.
      name: the item's; each has random points of its own, whatever was evaluated before.
      seed: of the random points.
    """
    count = point_count(kind)
    return Prompt(box=box_around(truth)) if count is None else Prompt(points=random_points(truth, count, name, seed))


def random_points(
    truth: Bool[np.ndarray, "h w"], count: int, name: str, seed: int
) -> tuple[tuple[float, float, int], ...]:
    """`count` different pixels of the object, all of them if it has fewer; the first n are those of a smaller count."""
    y, x = np.nonzero(truth)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    chosen: dict[int, None] = {}
    while len(chosen) < min(count, len(y)):
        chosen[int(rng.integers(len(y)))] = None
    return tuple((float(x[i]), float(y[i]), 1) for i in chosen)
