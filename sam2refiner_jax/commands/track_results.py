"""What `sam2refiner track` writes: pictures of numbers, a table of scores, and the video that shows them."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from ..atomic import new_file
from ..data.masks import VOID, read_numbers
from ..image.overlay import draw_captions, draw_overlay
from ..video.frames import Frames
from ..video.state import FrameScores
from ..video.writer import write_video
from .outputs import video_tags
from .track_progress import Scores

__all__ = ["SCORES_FILE", "number_pixels", "results_there", "score_rows", "scores_by_number", "write_overlay_video"]

SCORES_FILE = "scores.csv"


def results_there(folder: Path) -> list[Path]:
    """What a folder for results holds that new ones might replace; the path itself if it is no folder."""
    if folder.is_dir():
        return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [folder] if folder.exists() else []


def scores_by_number(numbers: list[int], scores: FrameScores) -> Scores:
    """The scores of objects on a frame, the object score as a probability."""
    found = 1 / (1 + np.exp(-scores.object_score_logits.astype(np.float64)))
    return dict(zip(numbers, zip(found.tolist(), scores.predicted_iou.tolist(), strict=True), strict=True))


def score_rows(masks: dict[int, Path], scores: dict[int, Scores]) -> Iterator[list[object]]:
    """The frame's name, the object and its scores, blank where there is none, in the order of frames."""
    for index in sorted(scores):
        for number, values in scores[index].items():
            yield [masks[index].stem, number, *("" if math.isnan(value) else f"{value:.6g}" for value in values)]


def number_pixels(logits: np.ndarray, numbers: list[int]) -> Integer[np.ndarray, "h w"]:
    """The number of the object with the highest logit at each pixel, 0 where none is positive."""
    if not numbers:
        return np.zeros(logits.shape[1:], np.uint8)
    best = logits.argmax(axis=0)
    # Of 8 bits, as DAVIS has them, unless a number is beyond.
    values = np.array(numbers, np.uint8 if max(numbers) <= VOID else np.uint16)
    return np.where(logits.max(axis=0) > 0, values[best], values.dtype.type(0))


def write_overlay_video(
    frames: Frames, masks: dict[int, Path], path: Path, source: str, scores: dict[int, Scores] | None = None
) -> None:
    """Writes a video of the frames that have pictures of masks, showing them in it, at the times of `frames`.

    It starts with the first such frame. With `scores` of each of these frames, they are written beside the objects. For
    odd sides see `write_video`.
    """
    with new_file(path, overwrite=True) as partial:
        pictures = _shown(frames, masks, scores)
        write_video(partial, pictures, frames.times(), pixel_aspect=frames.pixel_aspect, tags=video_tags(source))


def _shown(
    frames: Frames, masks: dict[int, Path], scores: dict[int, Scores] | None
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """The frames that have pictures of masks, with them; no frame after the last, which may be unreadable, is read."""
    left = sorted(masks, reverse=True)
    for index, photo in enumerate(frames.photos()):
        if index == left[-1]:
            yield index, draw_objects(photo, masks[index], None if scores is None else scores[index])
            left.pop()
        if not left:
            return


def draw_objects(
    photo: UInt8[np.ndarray, "h w 3"], path: Path, scores: Scores | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with the objects that a picture numbers, and their scores if given."""
    numbered = read_numbers(path)
    numbers = np.unique(numbered[numbered > 0])
    masks = numbers[:, None, None] == numbered
    shown = draw_overlay(photo, masks, colours=numbers - 1)
    return shown if scores is None else draw_captions(shown, masks, [_caption(n, *scores[n]) for n in numbers.tolist()])


def _caption(number: int, object_score: float, predicted_iou: float) -> str:
    iou = "given" if math.isnan(predicted_iou) else f"IoU {predicted_iou:.2f}"
    return f"{number}: {object_score:.2f}, {iou}"
