"""`sam2refiner segment --everything`: all masks of a photo, as COCO writes them, and a picture of them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..image.canvas import Fit
from ..image.coco import compressed_run_lengths
from ..image.mask_generator import SAM2AutomaticMaskGenerator
from ..image.overlay import draw_overlay
from ..image.preprocess import read_photo
from ..sam2 import SAM2
from .outputs import save_document, save_picture, source_of

__all__ = ["DEFAULT_GRID", "GridOptions", "everything_in_photo", "files_of_everything"]

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


def files_of_everything(path: Path, output: Path) -> list[Path]:
    """The files that the results of a photo are in."""
    return [output / f"{path.stem}.json", output / f"{path.stem}_overlay.png"]


def everything_in_photo(generator: SAM2AutomaticMaskGenerator, path: Path, output: Path) -> Path:
    """Writes all masks of a photo as COCO JSON, and a picture of them; returns the picture's path.

    Raises:
      ValueError: if the photo cannot be read, or pycocotools is not installed.
    """
    photo = read_photo(path)
    found = generator.generate(photo)
    annotations: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": 1,
            "category_id": CATEGORY["id"],
            "iscrowd": 0,
            **each,
            "segmentation": compressed_run_lengths(each["segmentation"]),
        }
        for number, each in enumerate(found, start=1)
    ]
    image = {"id": 1, "file_name": path.name, "height": photo.shape[0], "width": photo.shape[1]}
    document = {"images": [image], "categories": [CATEGORY], "annotations": annotations}
    scores, picture = files_of_everything(path, output)
    save_document(document, scores, source_of(path))
    largest_first = [each["segmentation"] for each in sorted(found, key=lambda each: -each["area"])]
    shown = np.stack(largest_first) if largest_first else np.zeros((0, *photo.shape[:2]), bool)
    save_picture(Image.fromarray(draw_overlay(photo, shown)), picture, source_of(path))
    return picture
