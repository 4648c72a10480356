"""The command `sam2refiner segment`: masks of a photo, or of every photo in a folder."""

import dataclasses
import glob
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm
from tyro.conf import Positional

from ..checkpoints import DEFAULT_CHECKPOINT, load_model
from ..data.files import PHOTO_SUFFIXES, file_named, files_in
from ..data.masks import read_mask
from ..image.canvas import Fit, on_canvas
from ..image.overlay import draw_overlay
from ..image.predictor import Prediction, SAM2ImagePredictor
from ..image.preprocess import read_photo
from ..video.tracking import MASK_BIAS, MASK_SCALE
from .everything import DEFAULT_GRID, GridOptions, everything_in_photo, files_of_everything
from .outputs import check_outputs, clear_results, made_of, save_document, save_picture, source_of

__all__ = ["PhotoPrompts", "segment", "segment_photo"]


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


def segment(
    photo: Positional[Path],
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    output: Path = Path("out"),
    points: tuple[tuple[float, float, int], ...] = (),
    boxes: tuple[tuple[float, float, float, float], ...] = (),
    mask: Path | None = None,
    prompts: Path | None = None,
    multimask: bool = False,
    max_hole_area: float = 0.0,
    max_sprinkle_area: float = 0.0,
    side_by_side: bool = False,
    everything: bool = False,
    grid: GridOptions = DEFAULT_GRID,
    image_size: int | None = None,
    fit: Fit = "squeeze",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Segment a photo, or every photo in a folder, from clicks, boxes or a mask, or everything in it.

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
      multimask: Three masks for each object instead of one, for ambiguous prompts such as a single click.
      max_hole_area: Fill holes of at most this area, in pixels of the 256 x 256 mask.
      max_sprinkle_area: Remove specks of at most this area, likewise.
      side_by_side: With a refiner, the overlay shows the coarse mask on the left and the refined one on the right.
      everything: Find all masks of the photo, without prompts.
      grid: Where --everything looks, and which masks it takes.
      image_size: Side of the model's square input, a multiple of 32; the checkpoint's own unless given.
      fit: Squeeze photos to the model's square input, as the official package does, or pad them to a square first.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    photos = _find_photos(photo)
    given = PhotoPrompts(points, boxes, mask)
    if everything and (given or prompts or multimask or side_by_side):
        raise ValueError("everything takes no points, boxes, mask or prompts, and neither multimask nor side_by_side")
    by_name = _read_prompt_file(prompts, photo, photos) if prompts else {}
    jobs = []
    for path in photos:
        job = by_name.get(path.name, given)
        if job is given and photo.is_dir() and mask is not None:
            job = dataclasses.replace(given, mask=file_named(mask, path.stem))
        if not job and not everything:
            raise ValueError(f"{path.name} has no prompt: give points, boxes, a mask, or prompts for it, or everything")
        jobs.append((path, job))
    outputs = [
        (file, source_of(path))
        for path, job in jobs
        for file in (files_of_everything(path, output) if everything else _files_of(path, job, output, multimask))
    ]
    check_outputs(outputs, [*photos, *(job.mask for _, job in jobs if job.mask), *([prompts] if prompts else [])])
    output.mkdir(parents=True, exist_ok=True)

    model = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
    if everything:
        generator = grid.generator(model, fit)

        def do(path: Path, job: PhotoPrompts) -> Path:
            return everything_in_photo(generator, path, output)
    else:
        predictor = SAM2ImagePredictor(model, max_hole_area=max_hole_area, max_sprinkle_area=max_sprinkle_area, fit=fit)

        def do(path: Path, job: PhotoPrompts) -> Path:
            return segment_photo(predictor, path, job, output, multimask=multimask, side_by_side=side_by_side)

    _for_each(jobs, do, output)


def _for_each(jobs: list[tuple[Path, PhotoPrompts]], do: Callable[[Path, PhotoPrompts], Path], output: Path) -> None:
    """Does each photo; those of several that cannot be done are named, and the others are done.

    Raises:
      ValueError: if any could not be done.
    """
    failures = 0
    for path, job in tqdm(jobs, unit="photo", disable=len(jobs) == 1):
        try:
            overlay = do(path, job)
        except (ValueError, OSError) as error:
            if len(jobs) == 1:
                raise
            failures += 1
            tqdm.write(f"sam2refiner: {path.name}: {error}", file=sys.stderr)
    if failures:
        raise ValueError(f"{failures} of {len(jobs)} photos could not be segmented; the others are in {output}")
    print(f"masks, scores and overlays are in {output}" if len(jobs) > 1 else f"overlay: {overlay}")


def segment_photo(
    predictor: SAM2ImagePredictor,
    path: Path,
    prompts: PhotoPrompts,
    output: Path,
    *,
    multimask: bool = False,
    side_by_side: bool = False,
) -> Path:
    """Segments one photo and writes its masks, scores and overlay; returns the overlay's path.

    Raises:
      ValueError: if the photo or its prompts cannot be used, or `side_by_side` is asked for without a refiner.
    """
    if side_by_side and predictor.model.refiner is None:
        raise ValueError("side_by_side must be off without a refiner: there is nothing to compare")
    photo = read_photo(path)
    size = photo.shape[0], photo.shape[1]
    arguments = prompts.arguments(size, predictor.model.config.mask_size, predictor.fit)
    predictor.set_image(photo)
    prediction = predictor.predict(**arguments, multimask_output=multimask)
    masks, ious = _per_object(prediction)

    source = source_of(path)
    clear_results(output, source, f"{glob.escape(path.stem)}_object*.png")
    scores: list[dict[str, Any]] = []
    for i, (object_masks, object_ious) in enumerate(zip(masks, ious, strict=True)):
        entries = []
        for k, (mask, iou) in enumerate(zip(object_masks, object_ious, strict=True)):
            name = f"{path.stem}_object{i}" + (f"_mask{k}" if len(object_masks) > 1 else "") + ".png"
            save_picture(Image.fromarray(mask.astype(np.uint8) * 255), output / name, source)
            entries.append({"file": name, "predicted_iou": round(float(iou), 6), "area": int(mask.sum())})
        scores.append({"masks": entries})
    document = {"photo": path.name, "height": photo.shape[0], "width": photo.shape[1], "objects": scores}
    save_document(document, output / f"{path.stem}.json", source)

    picture = _overlay(photo, masks, ious, arguments)
    if side_by_side:
        coarse = predictor.predict(**arguments, multimask_output=multimask, refine=False)
        picture = np.concatenate([_overlay(photo, *_per_object(coarse), arguments), picture], axis=1)
    target = output / f"{path.stem}_overlay.png"
    save_picture(Image.fromarray(picture), target, source)
    return target


def _files_of(path: Path, prompts: PhotoPrompts, output: Path, multimask: bool) -> list[Path]:
    """The files that a photo's results may be in; with a refiner there is one mask of each object in any case."""
    masks = [f"_object{i}{kind}.png" for i in range(max(1, len(prompts.boxes))) for kind in _mask_kinds(multimask)]
    return [output / f"{path.stem}{ending}" for ending in (*masks, ".json", "_overlay.png")]


def _mask_kinds(multimask: bool) -> tuple[str, ...]:
    return ("", "_mask0", "_mask1", "_mask2") if multimask else ("",)


def _overlay(photo: np.ndarray, masks: np.ndarray, ious: np.ndarray, arguments: dict[str, Any]) -> np.ndarray:
    """The photo with the best mask of each object and the prompts."""
    return draw_overlay(
        photo,
        masks[np.arange(len(masks)), ious.argmax(axis=1)],
        points=arguments.get("point_coords"),
        labels=arguments.get("point_labels"),
        boxes=arguments.get("box"),
    )


def _per_object(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """Masks (objects, c, h, w) as booleans and their predicted IoU (objects, c), whether one object or several."""
    masks, ious, _ = prediction
    return (masks if masks.ndim == 4 else masks[None]) > 0, ious if ious.ndim == 2 else ious[None]


def _find_photos(photo: Path) -> list[Path]:
    if photo.is_dir():
        photos = [p for p in files_in(photo) if made_of(p) is None]  # what an earlier run left here is no photo
        if not photos:
            raise ValueError(f"{photo} holds no photo ({', '.join(PHOTO_SUFFIXES)})")
        return photos
    if not photo.exists():
        raise ValueError(f"{photo} does not exist")
    return [photo]


def _read_prompt_file(path: Path, photo: Path, photos: list[Path]) -> dict[str, PhotoPrompts]:
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
