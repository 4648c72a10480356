"""How far our results are from the official PyTorch package's: every parameter random, float32, 1024 x 1024 or others.

python benchmarks/parity.py PHOTO --models sam2.1_hiera_t sam2.1_hiera_l --sizes 1024
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from official import nchw, official_and_ours, official_image_predictor, relative_error

from sam2refiner_jax import SAM2ImagePredictor
from sam2refiner_jax.image.preprocess import read_photo


def measure(name: str, photo: np.ndarray, image_size: int) -> list[float]:
    """Worst encoder level, worst logit of its range, worst predicted IoU, smallest share of equal pixels."""
    official, ours = official_and_ours(name, image_size)
    predictors = SAM2ImagePredictor(ours), official_image_predictor(official)
    for predictor in predictors:
        predictor.set_image(photo)
    photos, official_features = predictors[0]._photos, predictors[1]._features
    levels = zip(
        (*photos.features.high_res, photos.embedding),
        (*official_features["high_res_feats"], official_features["image_embed"]),
        strict=True,
    )
    height, width = photo.shape[:2]
    click = {"point_coords": np.array([[width / 3, height / 3]]), "point_labels": np.array([1])}
    box = {"box": np.array([0.1 * width, 0.2 * height, 0.8 * width, 0.7 * height])}
    logits, ious, pixels = [], [], []
    for prompts in (click, box, click | box):
        for multimask in (True, False):
            a, b = (p.predict(**prompts, multimask_output=multimask, return_logits=True) for p in predictors)
            logits.append(np.abs(a[2] - b[2]).max() / np.ptp(b[2]))
            ious.append(np.abs(a[1] - b[1]).max())
            pixels.append(((a[0] > 0) == (b[0] > 0)).mean())
    return [max(relative_error(nchw(a), b) for a, b in levels), max(logits), max(ious), min(pixels)]


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
