"""Masks damaged on purpose, and what `sam2refiner refine` makes of them: IoU and Boundary IoU before and after.

    python benchmarks/refine.py SOURCE [--checkpoint nano] [--refiner DIR] [--count 100] [--rounds 1] [--keep-below 0.5]

SOURCE is any of evaluation's, such as "folder:DIR"; `count` of its items, evenly spread, are taken.
"""

from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from sam2refiner_jax import SAM2ImagePredictor, load_model
from sam2refiner_jax.data.sources import open_source
from sam2refiner_jax.eval.metrics import boundary_iou, iou
from sam2refiner_jax.eval.roughening import WAYS, roughen
from sam2refiner_jax.image.rough_masks import improve_masks


def main(
    source: Positional[str],
    checkpoint: str = "nano",
    refiner: Path | None = None,
    count: int = 100,
    rounds: int = 1,
    keep_below: float = 0.5,
) -> None:
    """Prints a table."""
    samples = open_source(source)
    predictor = SAM2ImagePredictor(load_model(checkpoint, refiner=refiner))
    rows, taken = [], []
    for index in np.unique(np.linspace(0, len(samples) - 1, count).astype(int)):
        sample = samples[int(index)]
        truth = sample["mask"] > 127
        rough = [roughen(truth, way) for way in WAYS]
        predictor.set_image(sample["image"])
        improved = improve_masks(predictor, rough, rounds=rounds)
        taken.append([found.is_believed(keep_below) for found in improved])
        fine = [f.mask if f.is_believed(keep_below) else mask for f, mask in zip(improved, rough, strict=True)]
        rows.append([[[f(mask, truth) for f in (iou, boundary_iou)] for mask in masks] for masks in (rough, fine)])
    means = 100 * np.mean(rows, axis=0)  # before and after, way, measure
    print(f"{len(rows)} masks of {source}, {checkpoint}, {rounds} rounds\n")
    print("| | taken | IoU before | after | Boundary IoU before | after |\n|---|---|---|---|---|---|")
    for number, way in enumerate(WAYS):
        before, after = means[:, number]
        share = np.mean(taken, axis=0)[number]
        print(f"| {way} | {share:.0%} | {before[0]:.1f} | {after[0]:.1f} | {before[1]:.1f} | {after[1]:.1f} |")


if __name__ == "__main__":
    tyro.cli(main)
