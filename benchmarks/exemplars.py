"""An object that exemplars show, looked for in other photos: the IoU of what is found, beside that of a click on it.

    python benchmarks/exemplars.py [--checkpoint nano] [--refiner DIR] [--shapes 5] [--photos 20] [--exemplars 1 3]

Objects and photos are procedural (`train/data/procedural`), and need nothing from disk: the object of a scene is cut
out and put, mirrored or not, at other sizes and places, onto other scenes. Some of these become exemplars, in the
others it is looked for. The click is the one that the clicking robot of evaluation makes first; of SAM 2's three masks
the one with the best predicted IoU counts.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tyro

from sam2refiner_jax import SAM2ImagePredictor, SAM2VideoPredictor, load_model
from sam2refiner_jax.data.masks import OBJECT
from sam2refiner_jax.data.sources import Sample
from sam2refiner_jax.eval.clicks import next_click
from sam2refiner_jax.eval.metrics import iou
from sam2refiner_jax.train.data.paste import paste
from sam2refiner_jax.train.data.procedural import ProceduralSource

# Scenes are numbered from here on: no recipe of training comes so far.
FIRST = 2**30


def main(
    checkpoint: str = "nano",
    refiner: Path | None = None,
    shapes: int = 5,
    photos: int = 20,
    exemplars: tuple[int, ...] = (1, 3),
    size: int = 256,
    seed: int = 0,
) -> None:
    """Prints a table: a row for each shape, and their mean."""
    model = load_model(checkpoint, refiner=refiner)
    tracker, clicker = SAM2VideoPredictor(model), SAM2ImagePredictor(model)
    names = [f"{count} exemplars" if count > 1 else "an exemplar" for count in exemplars]
    print(f"{shapes} shapes in {photos} photos each, {size} pixels, {checkpoint}; IoU in percent\n")
    print("| shape | " + " | ".join(f"{name} | said to be there" for name in names) + " | a click |")
    print("|---" * (2 * len(names) + 2) + "|")
    rows = []
    for shape in range(shapes):
        scenes = pasted(ProceduralSource(size, seed), shape, np.random.default_rng((seed, shape)))
        shown = [next(scenes) for _ in range(max(exemplars))]
        known = [tracker.make_exemplar(*each) for each in shown]
        found = [look_for(tracker, clicker, known, exemplars, *next(scenes)) for _ in range(photos)]
        rows.append(100 * np.mean(found, axis=0))
        print(f"| {shape} | " + " | ".join(f"{value:.1f}" for value in rows[-1]) + " |")
    print("| mean | " + " | ".join(f"{value:.1f}" for value in np.mean(rows, axis=0)) + " |")


def look_for(
    tracker: SAM2VideoPredictor,
    clicker: SAM2ImagePredictor,
    known: list,
    counts: tuple[int, ...],
    image: np.ndarray,
    truth: np.ndarray,
) -> list[float]:
    """For each number of exemplars the IoU, and whether the object is said to be there; then the IoU of a click."""
    row: list[float] = []
    for count in counts:
        found = tracker.find_in_photo(image, {1: known[:count]})
        row += [iou(found.masks[0] > 0, truth), float(found.object_score_logits[0] > 0)]
    clicker.set_image(image)
    click = next_click(np.zeros_like(truth), truth).point
    masks, ious, _ = clicker.predict([click[:2]], [1])
    return [*row, iou(masks[ious.argmax()] > 0, truth)]


def pasted(source: ProceduralSource, shape: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One scene's object on others, without end: photos and true masks."""
    index = FIRST + 10_000 * shape
    object_of: Sample = source[index]
    while True:
        index += 1
        sample = paste(source[index], object_of, rng)
        if sample is not None:
            yield sample["image"], sample["mask"] >= OBJECT


if __name__ == "__main__":
    tyro.cli(main)
