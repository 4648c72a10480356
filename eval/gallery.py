"""A picture of the best gains and the worst failures: photo with prompt, masks and truth, side by side."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from ..image.overlay import draw_overlay
from .image import read_item
from .image_sets import Benchmark
from .metrics import iou
from .plots import gains, main_prompt, new_figure, save_figure
from .run_folder import Record
from .segmenters import Segmenter
from .truth_prompts import Prompt

__all__ = ["draw_gallery"]

# Items of each sort, and how large they are drawn, in pixels.
SHOWN, SIDE = 4, 480


def draw_gallery(
    segmenter: Segmenter, benchmarks: Sequence[Benchmark], records: Sequence[Record], seed: int, path: Path
) -> bool:
    """Draws the items that gain most and those with the worst final masks, segmenting them once more.

    Args:
      segmenter: that made the records.
      benchmarks: the sets.
      records: of the items.
      seed: of the random points.
      path: of the picture.

    Returns:
      False if there are only clicks, of which no mask is shown.
    """
    prompt = main_prompt(records)
    if prompt is None:
        return False
    best = sorted((found for found in gains(records) if found[0] > 0), key=lambda found: -found[0])
    rows = [("gain", record) for _, record in best[:SHOWN]]
    rows += [("failure", record) for record in sorted(records, key=lambda r: _final_iou(r, prompt))[:SHOWN]]
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    columns = 2 + len(segmenter.kinds)
    figure = new_figure(3.0 * columns, 2.3 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, (sort, record) in zip(grid, rows, strict=True):
        item = read_item(by_name[record["benchmark"]], record["index"], (prompt,))
        photo, truth, given = item.photo, item.truth, item.prompt(prompt, seed)
        pictures = [(f"{sort}: {record['name']}", _prompted(photo, given))]
        encoded = segmenter.encode([photo])
        for kind in segmenter.kinds:
            answer = segmenter.segment(encoded, [given], kind)[0]
            mask = np.zeros_like(truth) if answer is None else answer.mask
            pictures.append((f"{kind}: IoU {100 * iou(mask, truth):.1f}", _masked(photo, mask)))
        pictures.append(("truth", _masked(photo, truth)))
        for axes, (title, picture) in zip(row, pictures, strict=True):
            axes.imshow(picture)
            axes.set_title(title, fontsize=7)
            axes.axis("off")
    save_figure(figure, path)
    return True


def _final_iou(record: Record, prompt: str) -> float:
    return [result["iou"] for result in record["results"] if result["prompt"] == prompt][-1]


def _prompted(photo: UInt8[np.ndarray, "h w 3"], prompt: Prompt | None) -> UInt8[np.ndarray, "_ _ 3"]:
    if prompt is None:
        return _shrunk(photo)
    if prompt.rough is not None:
        return _masked(photo, prompt.rough)
    boxes = None if prompt.corners is None else prompt.corners[None]
    nothing = np.zeros((0, *photo.shape[:2]), bool)
    return _shrunk(draw_overlay(photo, nothing, points=prompt.coordinates, labels=prompt.labels, boxes=boxes))


def _masked(photo: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "_ _ 3"]:
    return _shrunk(draw_overlay(photo, mask[None]))


def _shrunk(picture: np.ndarray) -> np.ndarray:
    scale = SIDE / max(picture.shape[:2])
    return picture if scale >= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
