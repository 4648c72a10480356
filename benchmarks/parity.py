"""How far our results are from the official PyTorch package's: every parameter random, float32, 1024 x 1024 or others.

python benchmarks/parity.py PHOTO --models sam2.1_hiera_t sam2.1_hiera_l --sizes 1024
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from official import nchw, official_and_ours, official_image_predictor, relative_error

from sam2refiner_jax import SAM2ImagePredictor
from sam2refiner_jax.image.preprocess import read_photo


class Outcome(NamedTuple):
    """What a predictor makes of a photo: the encoder's levels, and logits, predicted IoU and masks of each prompt."""

    levels: list[np.ndarray]
    predictions: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def outcome(predictor, photo: np.ndarray) -> Outcome:
    """Of our predictor or an official one: a click, a box and both, three masks and one."""
    predictor.set_image(photo)
    if isinstance(predictor, SAM2ImagePredictor):
        photos = predictor.features
        levels = [nchw(x) for x in (*photos.features.high_res, photos.embedding)]
    else:
        features = predictor._features
        levels = [x.float().cpu().numpy() for x in (*features["high_res_feats"], features["image_embed"])]
    height, width = photo.shape[:2]
    click = {"point_coords": np.array([[width / 3, height / 3]]), "point_labels": np.array([1])}
    box = {"box": np.array([0.1 * width, 0.2 * height, 0.8 * width, 0.7 * height])}
    predictions = []
    for prompts in (click, box, click | box):
        for multimask in (True, False):
            masks, ious, low_res = predictor.predict(**prompts, multimask_output=multimask, return_logits=True)
            predictions.append((low_res, ious, masks > 0))
    return Outcome(levels, predictions)


def distances(one: Outcome, other: Outcome) -> list[float]:
    """Worst encoder level, worst logit of its range, worst predicted IoU, smallest share of equal pixels."""
    levels = max(relative_error(a, b) for a, b in zip(one.levels, other.levels, strict=True))
    worst = []
    for (low_res, iou, masks), (others, other_iou, other_masks) in zip(one.predictions, other.predictions, strict=True):
        logit = np.abs(low_res - others).max() / np.ptp(others)
        worst.append((logit, np.abs(iou - other_iou).max(), (masks != other_masks).mean()))
    logit, iou, unequal = np.max(worst, axis=0)
    return [levels, float(logit), float(iou), 1 - float(unequal)]


def measure(name: str, photo: np.ndarray, image_size: int) -> list[float]:
    """`distances` of ours from the official one."""
    official, ours = official_and_ours(name, image_size)
    return distances(outcome(SAM2ImagePredictor(ours), photo), outcome(official_image_predictor(official), photo))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("--models", nargs="+", default=[f"sam2.1_hiera_{size}" for size in ("t", "s", "b+", "l")])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024])
    arguments = parser.parse_args()
    print("| model | input | encoder, relative L2 | logits, of their range | predicted IoU | equal pixels |")
    print("|---|---|---|---|---|---|")
    for name, size in itertools.product(arguments.models, arguments.sizes):
        encoder, logits, iou, pixels = measure(name, read_photo(arguments.photo), size)
        print(f"| {name} | {size} | {encoder:.1e} | {logits:.1e} | {iou:.1e} | {pixels:.5%} |", flush=True)


if __name__ == "__main__":
    main()
