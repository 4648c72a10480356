"""The command `sam2refiner segment`: masks of a photo, or of every photo in a folder."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional, UseAppendAction

from ..checkpoints import DEFAULT_CHECKPOINT, load_model
from ..data.files import PHOTO_SUFFIXES, file_named, files_in
from ..image.canvas import Fit
from ..image.predictor import SAM2ImagePredictor
from ..video.predictor import SAM2VideoPredictor
from .by_exemplars import ByExemplars, make_exemplars, numbers_of, read_examples
from .everything import DEFAULT_GRID, Everything, GridOptions
from .outputs import check_outputs, made_of, source_of
from .photo_prompts import PhotoPrompts, read_prompt_file
from .photo_run import Job, PhotoTask, run_photos
from .prompted import Prompted

__all__ = ["segment"]


def segment(
    photo: Positional[Path],
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    output: Path = Path("out"),
    points: tuple[tuple[float, float, int], ...] = (),
    boxes: tuple[tuple[float, float, float, float], ...] = (),
    mask: Path | None = None,
    prompts: Path | None = None,
    exemplar: UseAppendAction[tuple[tuple[Path, Path], ...]] = (),
    multimask: bool = False,
    max_hole_area: float = 0.0,
    max_sprinkle_area: float = 0.0,
    side_by_side: bool = False,
    everything: bool = False,
    grid: GridOptions = DEFAULT_GRID,
    batch: int = 1,
    resume: bool = False,
    image_size: int | None = None,
    fit: Fit = "squeeze",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Segment a photo, or every photo in a folder, from clicks, boxes, a mask or exemplars, or everything in it.

    For each photo NAME it writes NAME_objectI.png (white on the object; NAME_objectI_maskK.png with --multimask),
    NAME_overlay.png and NAME.json with the predicted IoU of every mask. With --everything it writes all masks of the
    photo as COCO's JSON, NAME.json, and a picture of them, NAME_overlay.png. Results of an earlier run on the same
    photo are replaced, and nothing else; results are no photos for a later run on their folder.

    Args:
      photo: A photo, or a folder of photos.
      checkpoint: "nano", a checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory, for finer masks.
      output: The folder for the results.
      points: Clicks on one object, each X Y LABEL: pixels, then 1 on the object or 0 off it.
      boxes: Boxes, each X0 Y0 X1 Y1 in pixels; every box is an object of its own.
      mask: A picture that shows the object, such as white on black; in a folder run, a folder with one PNG of each
        photo's name.
      prompts: A JSON file of prompts by photo name: {"a.jpg": {"points": [[x, y, 1]], "boxes": [[x0, y0, x1, y1]],
        "mask": "a.png"}}, the mask's path as seen from the file.
      exemplar: IMAGE MASK: a picture of the objects and a mask of it, in which every number is an object. They are
        looked for in each photo, without other prompts. Can be given several times. NAME.json has each object's number
        and how likely it is to be there.
      multimask: Three masks for each object instead of one, for ambiguous prompts such as a single click.
      max_hole_area: Fill holes of at most this area, in pixels of the 256 x 256 mask.
      max_sprinkle_area: Remove specks of at most this area, likewise.
      side_by_side: With a refiner, the overlay shows the coarse mask on the left and the refined one on the right.
      everything: Find all masks of the photo, without prompts.
      grid: Where --everything looks, and which masks it takes.
      batch: How many photos the device encodes at once; on GPUs and TPUs several are quicker than one by one.
      resume: Leave out photos whose results are there already, of the same settings and prompts.
      image_size: Side of the model's square input, a multiple of 32; the checkpoint's own unless given.
      fit: Squeeze photos to the model's square input, as the official package does, or pad them to a square first.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    jobs = _jobs(photo, PhotoPrompts(points, boxes, mask), prompts, everything or bool(exemplar))
    if everything and (jobs[0][1] or prompts or multimask or side_by_side or batch != 1):
        raise ValueError(
            "everything takes no points, boxes, mask or prompts, and neither multimask, side_by_side nor batch"
        )
    if exemplar and (
        everything or jobs[0][1] or prompts or multimask or side_by_side or batch != 1 or fit != "squeeze"
        or max_sprinkle_area
    ):  # fmt: skip
        raise ValueError(
            "exemplar takes no points, boxes, mask or prompts, and neither everything, multimask, side_by_side, batch, "
            "fit nor max_sprinkle_area"
        )
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    examples = read_examples(exemplar)
    objects = len(numbers_of(examples))

    def files_of(job: Job) -> list[Path]:
        if exemplar:
            return ByExemplars.files_of(job, output, objects)
        return Everything.files_of(job, output) if everything else Prompted.files_of(job, output, multimask)

    outputs = [(file, source_of(job[0])) for job in jobs for file in files_of(job)]
    read = [file for path, job in jobs for file in (path, job.mask) if file] + [f for pair in exemplar for f in pair]
    check_outputs(outputs, [*read, *([prompts] if prompts else [])])
    output.mkdir(parents=True, exist_ok=True)

    model = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
    made_with: dict[str, Any] = {
        "checkpoint": checkpoint,
        "refiner": str(refiner) if refiner else None,
        "image_size": model.config.image_size,
        "fit": fit,
        "dtype": dtype,
    }
    task: PhotoTask
    if everything:
        made_with["grid"] = dataclasses.asdict(grid)
        task = Everything(grid.generator(model, fit), output, made_with)
    elif exemplar:
        made_with |= {"exemplar": [list(map(str, pair)) for pair in exemplar], "max_hole_area": max_hole_area}
        tracker = SAM2VideoPredictor(model, fill_hole_area=int(max_hole_area))
        task = ByExemplars(tracker, make_exemplars(tracker, examples), output, made_with)
    else:
        areas = {"max_hole_area": max_hole_area, "max_sprinkle_area": max_sprinkle_area}
        shown = {"multimask": multimask, "side_by_side": side_by_side}
        predictor = SAM2ImagePredictor(model, 0.0, max_hole_area, max_sprinkle_area, fit=fit)
        task = Prompted(predictor, output, {**made_with, **areas, **shown}, **shown)
    run_photos(jobs, task, output, batch=batch, resume=resume)


def _jobs(photo: Path, given: PhotoPrompts, prompts: Path | None, everything: bool) -> list[Job]:
    """Each photo with its prompts: those in the file, or else those given for all."""
    photos = _find_photos(photo)
    by_name = read_prompt_file(prompts, photo, photos) if prompts else {}
    jobs = []
    for path in photos:
        job = by_name.get(path.name, given)
        if job is given and photo.is_dir() and given.mask is not None:
            job = dataclasses.replace(given, mask=file_named(given.mask, path.stem))
        if not job and not everything:
            raise ValueError(
                f"{path.name} has no prompt: give points, boxes, a mask, prompts for it, exemplar, or everything"
            )
        jobs.append((path, job))
    return jobs


def _find_photos(photo: Path) -> list[Path]:
    if photo.is_dir():
        photos = [p for p in files_in(photo) if made_of(p) is None]  # what an earlier run left here is no photo
        if not photos:
            raise ValueError(f"{photo} holds no photo ({', '.join(PHOTO_SUFFIXES)})")
        return photos
    if not photo.exists():
        raise ValueError(f"{photo} does not exist")
    return [photo]
