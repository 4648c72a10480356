"""How exact and how fast the metrics are: J and F beside vos-benchmark, and milliseconds for each measure.

python benchmarks/metrics.py DAVIS --clips dog parkour breakdance
"""

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional
from vos_benchmark.benchmark import VideoEvaluator

from sam2refiner_jax.data.clips import Clip, open_clips
from sam2refiner_jax.eval.clicks import next_click
from sam2refiner_jax.eval.davis import contour_accuracy, region_similarity
from sam2refiner_jax.eval.metrics import boundary_iou, iou
from sam2refiner_jax.eval.video import score_clip

REPEATS = 20


def write_imperfect(clip: Clip, folder: Path) -> Path:
    """The true masks eroded, moved by up to twelve pixels, and in a tenth of the frames empty."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in clip.frame_names():
        numbers = cv2.erode(clip.numbers(name), np.ones((5, 5), np.uint8))
        numbers = np.roll(numbers, rng.integers(-12, 13, 2), (0, 1)) * np.uint8(rng.random() > 0.1)
        Image.fromarray(numbers).save(folder / f"{name}.png")
    return folder


def compare(clip: Clip, folder: Path) -> None:
    predictions = write_imperfect(clip, folder / clip.name)
    start = time.perf_counter()
    ours = {each["object"]: (each["j"], each["f"]) for each in score_clip(clip, predictions)}
    between = time.perf_counter()
    _, j, f = VideoEvaluator(str(clip.annotations.parent), str(folder))(clip.name)
    end = time.perf_counter()
    theirs = {number: (j[number] / 100, f[number] / 100) for number in j}
    difference = max(abs(a - b) for number in theirs for a, b in zip(ours[number], theirs[number], strict=True))
    means = ", ".join(f"object {n}: J {100 * a:.3f} F {100 * b:.3f}" for n, (a, b) in ours.items())
    seconds = f"{between - start:.2f} s, vos-benchmark {end - between:.2f} s"
    print(f"{clip.name}: {means}; largest difference {difference:.1e}; {seconds}")


def time_measures(height: int, width: int) -> None:
    y, x = np.mgrid[:height, :width]
    truth = ((y - height / 2) / (height / 3)) ** 2 + ((x - width / 2) / (width / 3)) ** 2 < 1
    prediction = np.roll(truth, height // 50, (0, 1))
    measures = (iou, boundary_iou, region_similarity, contour_accuracy, next_click)
    for measure in measures:
        start = time.perf_counter()
        for _ in range(REPEATS):
            measure(prediction, truth)
        print(f"{width} x {height}, {measure.__name__}: {(time.perf_counter() - start) / REPEATS * 1e3:.1f} ms")


def main(davis: Positional[Path], clips: tuple[str, ...] = ("dog", "parkour", "breakdance")) -> None:
    """Prints a line for each clip and each measure.

    Args:
      davis: Folder of DAVIS 2016 or 2017.
      clips: The clips.
    """
    with tempfile.TemporaryDirectory() as folder:
        for clip in open_clips(davis, clips):
            compare(clip, Path(folder))
    for size in ((480, 854), (2160, 3840)):
        time_measures(*size)


if __name__ == "__main__":
    tyro.cli(main)
