"""`sam2refiner segment` from prompts: masks, scores and an overlay of each photo."""

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from ..image.encoding import PreparedPhoto
from ..image.overlay import draw_overlay
from ..image.predictor import Prediction, SAM2ImagePredictor
from ..image.preprocess import read_photo
from .outputs import DONE_WITH, clear_results, save_document, save_picture, source_of
from .photo_run import Job

__all__ = ["Masks", "Prompted", "write_results"]


class Read(NamedTuple):
    """A photo, as it came and as the encoder wants it, and its prompts as arguments of `predict`."""

    photo: np.ndarray
    prepared: PreparedPhoto
    arguments: dict[str, Any]


class Masks(NamedTuple):
    """All masks of each object, and what the model thinks of them."""

    masks: Bool[np.ndarray, "objects c h w"]
    ious: Float[np.ndarray, "objects c"]


class Segmented(NamedTuple):
    """A photo's masks, and the coarse ones to show beside them."""

    read: Read
    masks: Masks
    coarse: Masks | None


@dataclasses.dataclass(frozen=True)
class Prompted:
    """What `run_photos` does with each photo: the masks that its prompts ask for.

    Attributes:
      predictor: of a model.
      output: the folder for the results.
      settings: what the results depend on besides.
      multimask: three masks of each object.
      side_by_side: show the coarse masks on the left of the refined ones.

    Raises:
      ValueError: if `side_by_side` is asked for without a refiner.
    """

    predictor: SAM2ImagePredictor
    output: Path
    settings: dict[str, Any]
    multimask: bool = False
    side_by_side: bool = False

    def __post_init__(self):
        if self.side_by_side and self.predictor.model.refiner is None:
            raise ValueError("side_by_side must be off without a refiner: there is nothing to compare")

    @staticmethod
    def files_of(job: Job, output: Path, multimask: bool) -> list[Path]:
        """The files of a photo's results; with a refiner there may be one mask of each object in any case."""
        path, prompts = job
        kinds = ("", "_mask0", "_mask1", "_mask2") if multimask else ("",)
        masks = [f"_object{i}{kind}.png" for i in range(max(1, len(prompts.boxes))) for kind in kinds]
        return [output / f"{path.stem}{ending}" for ending in (".json", *masks, "_overlay.png")]

    def files(self, job: Job) -> list[Path]:
        return self.files_of(job, self.output, self.multimask)

    def read(self, job: Job) -> Read:
        path, prompts = job
        photo, predictor = read_photo(path), self.predictor
        size = photo.shape[0], photo.shape[1]
        arguments = prompts.arguments(size, predictor.model.config.mask_size, predictor.fit)
        return Read(photo, predictor.prepare(photo), arguments)

    def segment(self, photos: Sequence[Read]) -> list[Segmented | ValueError]:
        self.predictor.set_image_batch([each.prepared for each in photos])
        return [self._segment(each, index) for index, each in enumerate(photos)]

    def _segment(self, read: Read, index: int) -> Segmented | ValueError:
        asked = {**read.arguments, "multimask_output": self.multimask, "image_index": index}
        try:
            masks = _per_object(self.predictor.predict(**asked))
            coarse = _per_object(self.predictor.predict(**asked, refine=False)) if self.side_by_side else None
        except ValueError as error:
            return error
        return Segmented(read, masks, coarse)

    def write(self, job: Job, found: Segmented, done_with: dict[str, Any]) -> Path:
        pictures = [_overlay(found.read, masks) for masks in (found.coarse, found.masks) if masks is not None]
        return write_results(job[0], self.output, found.masks, np.concatenate(pictures, axis=1), done_with)


def write_results(
    path: Path,
    output: Path,
    found: Masks,
    picture: UInt8[np.ndarray, "h w 3"],
    done_with: dict[str, Any],
    facts: Sequence[dict[str, Any]] = (),
) -> Path:
    """Writes a photo's masks, the picture of them, and last the document, in place of earlier results of the photo.

    Args:
      path: of the photo.
      output: the folder for the results.
      found: the masks of each object.
      picture: of them, on the photo.
      done_with: what the results were made with.
      facts: what else the document says of each object.

    Returns:
      The path of the picture.
    """
    source = source_of(path)
    document, target = output / f"{path.stem}.json", output / f"{path.stem}_overlay.png"
    for ending in (".json", "_object*.png"):
        clear_results(output, source, glob.escape(path.stem) + ending)
    objects: list[dict[str, Any]] = []
    for i, (masks, ious) in enumerate(zip(*found, strict=True)):
        entries = []
        for k, (mask, iou) in enumerate(zip(masks, ious, strict=True)):
            name = f"{path.stem}_object{i}" + (f"_mask{k}" if len(masks) > 1 else "") + ".png"
            save_picture(Image.fromarray(mask.astype(np.uint8) * 255), output / name, source)
            entries.append({"file": name, "predicted_iou": round(float(iou), 6), "area": int(mask.sum())})
        objects.append({**(facts[i] if facts else {}), "masks": entries})
    save_picture(Image.fromarray(picture), target, source)
    height, width = found.masks.shape[-2:]
    result = {"photo": path.name, "height": height, "width": width, "objects": objects, DONE_WITH: done_with}
    save_document(result, document, source)
    return target


def _overlay(read: Read, masks: Masks) -> np.ndarray:
    """The photo with the best mask of each object and the prompts."""
    return draw_overlay(
        read.photo,
        masks.masks[np.arange(len(masks.masks)), masks.ious.argmax(axis=1)],
        points=read.arguments.get("point_coords"),
        labels=read.arguments.get("point_labels"),
        boxes=read.arguments.get("box"),
    )


def _per_object(prediction: Prediction) -> Masks:
    """Whether of one object or several."""
    masks, ious, _ = prediction
    return Masks((masks if masks.ndim == 4 else masks[None]) > 0, ious if ious.ndim == 2 else ious[None])
