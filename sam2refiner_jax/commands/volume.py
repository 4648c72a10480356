"""The command `sam2refiner volume`: objects through the slices of a volume."""

from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm
from tyro.conf import Positional

from ..checkpoints import DEFAULT_CHECKPOINT, load_model
from ..data.volumes import open_volume, save_numbers, volume_stem
from ..video.predictor import SAM2VideoPredictor
from .outputs import check_outputs, result_tags, source_of
from .track_legs import both_ways, follow
from .track_prompts import FramePrompts
from .track_results import number_pixels
from .track_run import HISTORY

__all__ = ["volume"]


def volume(
    scan: Positional[Path],
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    output: Path = Path("out"),
    points: tuple[tuple[float, float, int], ...] = (),
    boxes: tuple[tuple[float, float, float, float], ...] = (),
    mask: Path | None = None,
    frame: int | None = None,
    axis: int | None = None,
    window: tuple[float, float] | None = None,
    fill_hole_area: int = 0,
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Track objects through the slices of a volume, both ways from clicks, boxes or a mask on one slice.

    The volume is a NIfTI file or a TIFF of several pages. The objects are written as OUTPUT/NAME_objects in the same
    format, place and orientation: their numbers, and 0 where there is none.

    Args:
      scan: A .nii, .nii.gz, .tif or .tiff.
      checkpoint: A checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory, for finer masks.
      output: The folder for the result.
      points: Clicks on one object, each X Y LABEL: pixels of the slice, then 1 on the object or 0 off it.
      boxes: Boxes, each X0 Y0 X1 Y1 in pixels; every box is an object of its own, numbered from 1.
      mask: A picture of the slice's size: every number in it is an object; white on black is one.
      frame: The slice that the prompts are for, counted from 0; the middle one unless given.
      axis: Of a NIfTI's array, along which the slices are: 0, 1, or 2, the default.
      window: The values that are shown black and white; by default all but half a percent at either end.
      fill_hole_area: Fill holes of at most this area, in pixels of the low-resolution mask.
      image_size: Side of the square that slices are squeezed to, a multiple of 32; the checkpoint's own unless given.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    prompts = FramePrompts(points, boxes, mask)
    found = open_volume(scan, axis)
    target = output / f"{volume_stem(scan)}_objects{scan.name[len(volume_stem(scan)) :]}"
    check_outputs([(target, source_of(scan))], [scan, *([mask] if mask else [])])
    pictures = found.pictures(window)
    start = len(pictures) // 2 if frame is None else frame
    model = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
    predictor = SAM2VideoPredictor(model, fill_hole_area=fill_hole_area)
    state = predictor.init_state(pictures, history=HISTORY)
    prompts.give(predictor, state, start)
    output.mkdir(parents=True, exist_ok=True)
    tracked = follow(predictor, state, both_ways(start, len(pictures)))
    slices = {
        index: number_pixels(logits[:, 0], numbers)
        for _, (index, numbers, logits, _) in tqdm(tracked, total=len(pictures), unit="slice")
    }
    numbers = np.stack([slices[index] for index in range(len(pictures))])
    save_numbers(found, numbers, target, result_tags(source_of(scan)), overwrite=True)
    print(f"objects: {target}")
