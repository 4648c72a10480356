"""The command `sam2refiner refine`: the masks of a data set made finer."""

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Integer
from PIL import Image
from tqdm import tqdm
from tyro.conf import Positional

from ..checkpoints import DEFAULT_CHECKPOINT, few, load_model
from ..data.files import PHOTO_SUFFIXES, files_in
from ..data.masks import VOID, numbers_picture, read_objects
from ..image.canvas import Fit
from ..image.coco import run_lengths
from ..image.predictor import SAM2ImagePredictor
from ..image.preprocess import read_photo
from ..image.rough_masks import Improved, improve_masks
from .outputs import check_outputs, made_of, save_document, save_picture, source_of

__all__ = ["refine"]

REPORT = "refine.json"


def refine(
    masks: Positional[Path],
    images: Path,
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    output: Path = Path("out/refined"),
    rounds: int = 1,
    keep_below: float = 0.5,
    form: Literal["png", "coco"] = "png",
    image_size: int | None = None,
    fit: Fit = "squeeze",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Make the rough masks of a folder of photos finer, by prompts found in each mask: no training, no clicks.

    For each mask NAME.png it writes NAME.png, with the objects' numbers as they were; with --form coco all of them as
    run lengths into one file. A finer mask that has too little to do with the rough one is not taken: the rough one
    stays, and refine.json lists it with the figures of all.

    Args:
      masks: A folder of masks, in any form that other commands read, with several objects or one.
      images: The folder of their photos, of the same names.
      checkpoint: "nano", a checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory, for finer masks.
      output: The folder for the results.
      rounds: How often each mask is made finer, from the second time on by its own result.
      keep_below: Smallest IoU of a finer mask with the rough one that is believed.
      form: PNGs, or refine.json with the masks as COCO's uncompressed run lengths.
      image_size: Side of the model's square input, a multiple of 32; the checkpoint's own unless given.
      fit: Squeeze photos to the model's square input, as the official package does, or pad them to a square first.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    if not 0 <= keep_below <= 1:
        raise ValueError(f"keep_below must be from 0 to 1, got {keep_below}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    pairs = _pairs(masks, images)
    report, pictures = output / REPORT, [(output / f"{path.stem}.png", source_of(path)) for path, _ in pairs]
    written = [(report, source_of(masks)), *(pictures if form == "png" else [])]
    check_outputs(written, [file for pair in pairs for file in pair])
    output.mkdir(parents=True, exist_ok=True)

    model = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
    predictor = SAM2ImagePredictor(model, fit=fit)
    entries: list[dict[str, Any]] = []
    failures = []
    for (path, photo_path), (target, source) in zip(tqdm(pairs, unit="mask"), pictures, strict=True):
        try:
            photo = read_photo(photo_path)
            numbers = read_objects(path, (photo.shape[0], photo.shape[1]))
        except (ValueError, OSError) as error:
            failures.append(path.name)
            tqdm.write(f"sam2refiner: {path.name}: {error}", file=sys.stderr)
            continue
        predictor.set_image(photo)
        found = improve_objects(predictor, numbers, rounds, keep_below)
        if form == "png":
            picture = join_objects(numbers, found)
            is_white = set(found) == {VOID}
            save_picture(Image.fromarray(picture) if is_white else numbers_picture(picture), target, source)
        entries += [_entry(path, number, *each, form) for number, each in found.items()]
    kept = [entry for entry in entries if entry["kept"]]
    save_document({"masks": entries, "left_out": failures}, report, source_of(masks))
    print(f"{len(entries) - len(kept)} masks made finer, {len(kept)} kept as they were (listed in {report}): {output}")
    if failures:
        raise ValueError(f"{len(failures)} of {len(pairs)} files could not be read; the others are in {output}")


def _pairs(masks: Path, images: Path) -> list[tuple[Path, Path]]:
    """Each mask with its photo."""
    for folder in (masks, images):
        if not folder.is_dir():
            raise ValueError(f"{folder} must be a folder")
    photos = {path.stem: path for path in files_in(images)}
    found = [path for path in files_in(masks) if made_of(path) is None]
    if not found:
        raise ValueError(f"{masks} holds no mask ({', '.join(PHOTO_SUFFIXES)})")
    missing = [path.name for path in found if path.stem not in photos]
    if missing:
        raise ValueError(f"{images} must hold a photo for each mask, but none for {few(missing)}")
    return [(path, photos[path.stem]) for path in found]


# By its number, an object's rough mask, its finer one, and whether the rough one is kept.
Found = dict[int, tuple[Bool[np.ndarray, "h w"], Improved, bool]]


def improve_objects(
    predictor: SAM2ImagePredictor, numbers: Integer[np.ndarray, "h w"], rounds: int, keep_below: float
) -> Found:
    """Finer masks of all objects of a map."""
    present = [int(number) for number in np.unique(numbers) if number]
    rough = [numbers == number for number in present]
    improved = improve_masks(predictor, rough, rounds=rounds)
    return {
        number: (mask, fine, not fine.is_believed(keep_below))
        for number, mask, fine in zip(present, rough, improved, strict=True)
    }


def join_objects(numbers: Integer[np.ndarray, "h w"], found: Found) -> Integer[np.ndarray, "h w"]:
    """One map of all objects: where several are, the one whose logit is highest; kept ones go before finer ones."""
    best, result = np.zeros(numbers.shape, np.float32), np.zeros_like(numbers)
    for number, (rough, fine, kept) in found.items():
        strength = np.where(rough, np.inf, 0) if kept else fine.logits
        here = strength > best
        best[here], result[here] = strength[here], number
    return result


def _entry(
    path: Path, number: int, rough: Bool[np.ndarray, "h w"], fine: Improved, kept: bool, form: str
) -> dict[str, Any]:
    mask = rough if kept else fine.mask
    entry = {
        "file": path.name,
        "object": number,
        "predicted_iou": round(fine.predicted_iou, 6),
        "iou_with_rough": round(fine.agreement, 6),
        "area": int(mask.sum()),
        "kept": kept,
    }
    return entry | ({"segmentation": run_lengths(mask)} if form == "coco" else {})
