"""What `sam2refiner segment` is asked about each photo, on its command line or in a file of prompts."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.files import files_in
from ..data.masks import read_mask
from ..image.canvas import Fit, on_canvas
from ..video.tracking import MASK_BIAS, MASK_SCALE

__all__ = ["PhotoPrompts", "read_prompt_file"]


@dataclasses.dataclass(frozen=True)
class PhotoPrompts:
    """What to segment in one photo: clicks on one object, or boxes around several, or one mask, or any of them mixed.

    Attributes:
      points: clicks as x, y, label in pixels; label 1 on the object, 0 off it.
      boxes: x0, y0, x1, y1 in pixels, one for each object.
      mask: path of a picture of the photo's size, in any form that `data.masks` reads; all its objects are one.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.points or self.boxes or self.mask)

    def as_plain(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return {
            "points": [list(point) for point in self.points],
            "boxes": [list(box) for box in self.boxes],
            "mask": str(self.mask) if self.mask else None,
        }

    def arguments(self, photo_size: tuple[int, int], mask_size: int, fit: Fit = "squeeze") -> dict[str, Any]:
        """The prompts as arguments of `SAM2ImagePredictor.predict` on a photo of `photo_size` = (height, width).

        Args:
          photo_size: the photo's height and width.
          mask_size: side of the model's mask prompts.
          fit: of the predictor.

        Raises:
          ValueError: if clicks are mixed with several boxes, or the mask cannot be read, has another size or is empty.
        """
        if self.points and len(self.boxes) > 1:
            raise ValueError(f"points are for one object and cannot be mixed with {len(self.boxes)} boxes")
        arguments: dict[str, Any] = {}
        if self.points:
            points = np.array(self.points, np.float32)
            arguments |= {"point_coords": points[:, :2], "point_labels": points[:, 2].astype(np.int32)}
        if self.boxes:
            arguments["box"] = np.array(self.boxes, np.float32)
        if self.mask:
            hard = Image.fromarray(on_canvas(read_mask(self.mask, photo_size).astype(np.float32), fit, 0.0))
            soft = np.asarray(hard.resize((mask_size, mask_size), Image.Resampling.BILINEAR))
            arguments["mask_input"] = soft[None] * MASK_SCALE + MASK_BIAS
        return arguments


def read_prompt_file(path: Path, photo: Path, photos: list[Path]) -> dict[str, PhotoPrompts]:
    """The prompts by photo name; each name must be one of `photos`, or be beside the only one."""
    try:
        document = json.loads(path.read_bytes())  # finds out the encoding, with or without a byte order mark
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    prompts = dict(_parse_prompts(path, document))
    names = {each.name for each in (photos if photo.is_dir() else [photo, *files_in(photo.absolute().parent)])}
    unknown = sorted(prompts.keys() - names)
    if unknown:
        where = photo if photo.is_dir() else photo.absolute().parent
        raise ValueError(f"{path} has prompts for {', '.join(unknown)}, but {where} holds no such photo")
    return prompts


def _parse_prompts(path: Path, document: Any) -> Iterator[tuple[str, PhotoPrompts]]:
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold an object of photo names")
    for name, entry in document.items():
        known = {"points", "boxes", "mask"}
        if not isinstance(entry, dict) or set(entry) - known:
            raise ValueError(f"{path}: the prompts of {name} must be an object with {', '.join(sorted(known))}")
        try:
            yield (
                name,
                PhotoPrompts(
                    tuple((float(x), float(y), _whole(label)) for x, y, label in entry.get("points", ())),
                    tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in entry.get("boxes", ())),
                    path.parent / entry["mask"] if "mask" in entry else None,
                ),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: the prompts of {name} must be points [x, y, label], label 0 or 1, boxes [x0, y0, x1, y1] and "
                f"the path of a mask, got {json.dumps(entry)}"
            ) from error


def _whole(label: Any) -> int:
    if int(label) != float(label):
        raise ValueError(f"a label must be a whole number, got {label}")
    return int(label)
