"""What bfloat16 computation changes in masks, against float32 with the same random weights.

    python benchmarks/bfloat16.py --models sam2.1_hiera_t

Every parameter is random, so masks are made of a net's raw arithmetic, with none of the margin that training gives:
the figures are an upper bound for trained models.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import skimage.data

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from official import build_official, ours_like, randomise, relative_error

from sam2refiner_jax import SAM2ImagePredictor

IMAGES = {
    "noise": np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8),
    "photo (astronaut)": skimage.data.astronaut(),
    "photo (chelsea)": skimage.data.chelsea(),
    "flat squares": np.kron(np.random.default_rng(0).integers(0, 255, (6, 8, 3)), np.ones((100, 100, 1))).astype(
        np.uint8
    ),
}


def compare(
    exact: SAM2ImagePredictor, fast: SAM2ImagePredictor, image: np.ndarray
) -> tuple[float, float, float, float]:
    """Relative error of the embedding and of the logits, IoU of the binary masks, change of the predicted IoU."""
    height, width = image.shape[:2]
    prompts = {"point_coords": [[width / 2, height / 2]], "point_labels": [1], "return_logits": True}
    embeddings, predictions = [], []
    for predictor in (exact, fast):
        predictor.set_image(image)
        embeddings.append(np.asarray(predictor.get_image_embedding(), np.float32))
        predictions.append(predictor.predict(**prompts))
    (masks, ious, low_res), (fast_masks, fast_ious, fast_low_res) = predictions
    overlap = ((masks > 0) & (fast_masks > 0)).sum() / ((masks > 0) | (fast_masks > 0)).sum()
    return (
        relative_error(embeddings[1], embeddings[0]),
        relative_error(fast_low_res, low_res),
        float(overlap),
        float(np.abs(fast_ious - ious).max()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["sam2.1_hiera_t"])
    print("| model | input | embedding, relative L2 | logits, relative L2 | masks, IoU | predicted IoU, change |")
    print("|---|---|---|---|---|---|")
    for name in parser.parse_args().models:
        official = randomise(build_official(name))
        exact, fast = (SAM2ImagePredictor(ours_like(official, dtype=d)) for d in ("float32", "bfloat16"))
        for kind, image in IMAGES.items():
            embedding, logits, overlap, iou = compare(exact, fast, image)
            print(f"| {name} | {kind} | {embedding:.1e} | {logits:.1e} | {overlap:.4f} | {iou:.1e} |", flush=True)


if __name__ == "__main__":
    main()
