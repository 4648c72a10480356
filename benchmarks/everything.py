"""All masks of photos, ours beside the official generator's: are they the same, and how long does each take?

    python benchmarks/everything.py PHOTO... [--model nano] [--points-per-side 32] [--settings m2m]

`nano` is the small model in the package, its weights in the official modules too, with thresholds that suit it;
sam2.1_hiera_t has random weights, with thresholds that some masks pass. Both sides run in turns.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from tyro.conf import Positional

REFERENCE = str(Path(__file__).parents[1] / "tests" / "reference")
sys.path.insert(0, REFERENCE)
from official import build_official, official_mask_generator, official_nano, ours_like, randomise

from sam2refiner_jax import SAM2AutomaticMaskGenerator, load_model
from sam2refiner_jax.eval.metrics import iou
from sam2refiner_jax.image.preprocess import read_photo

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "crops": {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    "m2m": {"use_m2m": True},
}
THRESHOLDS = {
    "nano": {"pred_iou_thresh": 0.2, "stability_score_thresh": 0.7},
    "sam2.1_hiera_t": {
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.3,
        "stability_score_offset": 0.05,
        "mask_threshold": 0.7,
        "box_nms_thresh": 0.95,
    },
}


def both_models(name: str) -> tuple[torch.nn.Module, Any]:
    if name == "nano":
        with tempfile.TemporaryDirectory() as folder:
            return official_nano(Path(folder)), load_model("nano").with_refiner(None)
    official = randomise(build_official(name))
    with torch.no_grad():
        official.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return official, ours_like(official)


def main(
    photos: Positional[tuple[Path, ...]],
    model: str = "nano",
    points_per_side: int = 32,
    settings: tuple[str, ...] = tuple(SETTINGS),
) -> None:
    """Prints a table."""
    official, ours = both_models(model)
    print(f"{model}, {points_per_side} x {points_per_side} points\n")
    print("| settings | photo | masks, official | ours | mean IoU | boxes off by | scores off by | ratio of times |")
    print("|---|---|---|---|---|---|---|---|")
    for name in settings:
        arguments = {"points_per_side": points_per_side, **THRESHOLDS[model], **SETTINGS[name]}
        theirs = official_mask_generator(official, **arguments)
        mine = SAM2AutomaticMaskGenerator(ours, **arguments)
        mine.generate(read_photo(photos[0]))  # compiles
        for path in photos:
            photo = np.ascontiguousarray(read_photo(path))
            start = time.perf_counter()
            expected = theirs.generate(photo)
            between = time.perf_counter()
            found = mine.generate(photo)
            ratio = (time.perf_counter() - between) / (between - start)
            pairs = list(zip(found, expected, strict=False))
            same = np.mean([iou(a["segmentation"], b["segmentation"]) for a, b in pairs]) if pairs else 1.0
            boxes = max((np.abs(np.subtract(a["bbox"], b["bbox"])).max() for a, b in pairs), default=0.0)
            scores = max(
                (abs(a[key] - b[key]) for a, b in pairs for key in ("predicted_iou", "stability_score")), default=0.0
            )
            print(
                f"| {name} | {path.stem} | {len(expected)} | {len(found)} | {same:.5f} | {boxes:.0f} | {scores:.1e} | "
                f"{ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    tyro.cli(main)
