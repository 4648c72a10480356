"""`sam2refiner segment --everything`: all masks of a photo, as COCO writes them, and a picture of them."""

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..image.canvas import Fit
from ..image.coco import compressed_run_lengths, pycocotools_mask
from ..image.mask_generator import SAM2AutomaticMaskGenerator
from ..image.overlay import draw_overlay
from ..image.preprocess import read_photo
from ..sam2 import SAM2
from .outputs import DONE_WITH, clear_results, save_document, save_picture, source_of
from .photo_run import Job

__all__ = ["DEFAULT_GRID", "Everything", "GridOptions"]

CATEGORY = {"id": 1, "name": "object"}


@dataclasses.dataclass(frozen=True)
class GridOptions:
    """Where to look for masks, and which to take: arguments of `SAM2AutomaticMaskGenerator`.

    Attributes:
      points_per_side: Points along each side of the photo.
      points_per_batch: Points that are decoded at once.
      pred_iou_thresh: Take masks of which the model thinks more than this.
      stability_score_thresh: Take masks that are at least so stable.
      box_nms_thresh: Masks whose boxes have an IoU above this are of one thing.
      crop_n_layers: Look at parts of the photo too, 2 x 2 in the first layer, 4 x 4 in the second.
      crop_n_points_downscale_factor: By how much each layer has fewer points along a side.
      min_mask_region_area: Remove holes and specks of at most this area, in pixels of the 256 x 256 mask.
      use_m2m: Ask again with each mask itself as a prompt.
      multimask: Three masks at each point.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    use_m2m: bool = False
    multimask: bool = True

    def generator(self, model: SAM2, fit: Fit) -> SAM2AutomaticMaskGenerator:
        """A generator of these."""
        arguments = dataclasses.asdict(self)
        return SAM2AutomaticMaskGenerator(model, multimask_output=arguments.pop("multimask"), fit=fit, **arguments)


DEFAULT_GRID = GridOptions()


@dataclasses.dataclass(frozen=True)
class Everything:
    """What `run_photos` does with each photo: all masks of it as COCO JSON, and a picture of them.

    Attributes:
      generator: of the masks.
      output: the folder for the results.
      settings: what the results depend on besides.

    Raises:
      ValueError: if pycocotools is not installed.
    """

    generator: SAM2AutomaticMaskGenerator
    output: Path
    settings: dict[str, Any]

    def __post_init__(self):
        pycocotools_mask()

    @staticmethod
    def files_of(job: Job, output: Path) -> list[Path]:
        """The files of a photo's results."""
        return [output / f"{job[0].stem}.json", output / f"{job[0].stem}_overlay.png"]

    def files(self, job: Job) -> list[Path]:
        return self.files_of(job, self.output)

    def read(self, job: Job) -> np.ndarray:
        return read_photo(job[0])

    def segment(self, photos: Sequence[np.ndarray]) -> list[Any]:
        return [(photo, self.generator.generate(photo)) for photo in photos]

    def write(self, job: Job, found: tuple[np.ndarray, list[dict[str, Any]]], done_with: dict[str, Any]) -> Path:
        (path, _), (photo, masks), (document, picture) = job, found, self.files(job)
        clear_results(self.output, source_of(path), glob.escape(document.name))
        largest_first = [each["segmentation"] for each in sorted(masks, key=lambda each: -each["area"])]
        shown = np.stack(largest_first) if largest_first else np.zeros((0, *photo.shape[:2]), bool)
        save_picture(Image.fromarray(draw_overlay(photo, shown)), picture, source_of(path))
        annotations: list[dict[str, Any]] = [
            {
                "id": number,
                "image_id": 1,
                "category_id": CATEGORY["id"],
                "iscrowd": 0,
                **each,
                "segmentation": compressed_run_lengths(each["segmentation"]),
            }
            for number, each in enumerate(masks, start=1)
        ]
        image = {"id": 1, "file_name": path.name, "height": photo.shape[0], "width": photo.shape[1]}
        result = {"images": [image], "categories": [CATEGORY], "annotations": annotations, DONE_WITH: done_with}
        save_document(result, document, source_of(path))
        return picture
