"""The video benchmark: semi-supervised tracking from the first frame, masks for the official evaluators, J and F."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from ..atomic import new_file
from ..track import davis_palette, number_pixels
from ..train.data.pictures import read_numbers
from .clips import VOID, Clip, VideoObject
from .davis import contour_accuracy, region_similarity
from .image import Clock
from .run_folder import Record, RunFolder
from .trackers import Tracker, start_of

__all__ = ["MASKS_FOLDER", "evaluate_videos", "score_clip", "track_clip"]

MASKS_FOLDER = "masks"


def evaluate_videos(tracker: Tracker, clips: Sequence[Clip], prompt: str, run: RunFolder, clock: Clock) -> None:
    """Tracks and scores every clip that `run` has no record of, and adds the records.

    The masks of a clip are in the folder masks/CLIP of the run. A clip that was interrupted is tracked again.

    Args:
      tracker: what to evaluate.
      clips: where.
      prompt: what it is given of an object in its first frame: "mask", "box" or "click".
      run: where results go.
      clock: for the time of tracking and of scoring.

    Raises:
      ValueError: if a frame or annotation cannot be read, naming it.
    """
    done = {record["clip"] for record in run.records}
    with tqdm(clips, unit="clip") as progress:
        for clip in progress:
            progress.set_postfix_str(clip.name)
            if clip.name in done:
                continue
            folder = run.folder / MASKS_FOLDER / clip.name
            clock.time("model", track_clip, tracker, clip, prompt, folder)
            run.append([{"clip": clip.name, "objects": clock.time("metrics", score_clip, clip, folder)}])


def track_clip(tracker: Tracker, clip: Clip, prompt: str, folder: Path) -> None:
    """Tracks all objects of a clip and writes a PNG for each frame, as the official evaluators read them.

    A pixel's value is the number of the object with the highest logit. As in DAVIS 2016, the picture is grayscale if
    the only number is 255; else it has DAVIS's palette.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, objects = clip.frame_names(), clip.objects()
    starts: dict[int, dict] = {}
    for each in objects:
        if each.first not in names:
            raise ValueError(f"object {each.number} of clip {clip.name} starts in frame {each.first}, which is missing")
        truth = clip.truth(each.first, each.number)
        if not truth.any():
            raise ValueError(f"object {each.number} of clip {clip.name} is not in the annotation of its first frame")
        starts.setdefault(names.index(each.first), {})[each.number] = start_of(prompt, truth)
    is_grayscale = [each.number for each in objects] == [VOID]
    shape = clip.numbers(objects[0].first).shape
    for name in names[: min(starts)]:
        _save(np.zeros(shape, np.uint8), folder / f"{name}.png", is_grayscale)
    for index, numbers, logits in tracker.track(clip.frames, starts):
        _save(number_pixels(logits, numbers), folder / f"{names[index]}.png", is_grayscale)


def score_clip(clip: Clip, predictions: Path) -> list[Record]:
    """J and F of every object in every frame that counts.

    Args:
      clip: with the truth.
      predictions: the folder of PNGs whose values are the objects' numbers.

    Raises:
      ValueError: naming the frame, if a prediction is missing, cannot be read, or has another size than the truth.
    """
    objects = clip.objects()
    values: dict[int, list[tuple[float, float]]] = {each.number: [] for each in objects}
    for frame in sorted({frame for each in objects for frame in each.scored}):
        path = predictions / f"{frame}.png"
        if not path.exists():
            raise ValueError(f"clip {clip.name} has no prediction for frame {frame}: expected {path}")
        found, expected = read_numbers(path), clip.numbers(frame)
        if found.shape != expected.shape:
            sizes = ["{1} x {0}".format(*numbers.shape) for numbers in (expected, found)]
            raise ValueError(f"{path} must be as large as its annotation, {sizes[0]}, got {sizes[1]}")
        for each in objects:
            if frame in each.scored:
                masks = found == each.number, expected == each.number
                values[each.number].append((region_similarity(*masks), contour_accuracy(*masks)))
    return [_object_record(each, values[each.number]) for each in objects]


def _object_record(each: VideoObject, values: Sequence[tuple[float, float]]) -> Record:
    if not values:
        raise ValueError(f"object {each.number} has no frame to score between its first, {each.first}, and its last")
    j, f = (list(column) for column in zip(*values, strict=True))
    means = {"j": float(np.mean(j)), "f": float(np.mean(f))}
    return {
        "object": each.number,
        "first": each.first,
        "frames": len(values),
        **means,
        "j_by_frame": j,
        "f_by_frame": f,
    }


def _save(numbers: UInt8[np.ndarray, "h w"], path: Path, is_grayscale: bool) -> None:
    picture = Image.fromarray(numbers)
    if not is_grayscale:
        picture.putpalette(davis_palette().tobytes())
    with new_file(path, overwrite=True) as partial:
        picture.save(partial)
