"""The video benchmark: semi-supervised tracking from the first frame, masks for the official evaluators, J and F."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from PIL import Image
from tqdm import tqdm

from ..atomic import new_file
from ..commands.track_results import number_pixels
from ..data.clips import VOID, Clip, VideoObject
from ..data.files import file_named
from ..data.masks import numbers_picture, read_numbers
from .davis import contour_accuracy, region_similarity
from .image import Clock, LeftOut
from .run_folder import Record, RunFolder
from .trackers import Tracker, start_of

__all__ = [
    "MASKS_FOLDER",
    "PredictionError",
    "evaluate_videos",
    "score_clip",
    "score_predictions",
    "track_clip",
    "unscored_objects",
]

MASKS_FOLDER = "masks"

# Object score logits and predicted IoUs of a clip, by frame and object.
ClipScores = dict[str, dict[int, tuple[float, float]]]


class PredictionError(ValueError):
    """A prediction is missing or is no mask of its clip; the message says which."""


def evaluate_videos(
    tracker: Tracker, clips: Sequence[Clip], prompt: str, run: RunFolder, clock: Clock
) -> list[LeftOut]:
    """Tracks and scores every clip that `run` has no record of, and adds the records.

    The masks of a clip are in the folder masks/CLIP of the run; the tracker's scores, if it gives such, in the record.
    A clip that was interrupted is tracked again.

    Args:
      tracker: what to evaluate.
      clips: where.
      prompt: what it is given of an object in its first frame: "mask", "box" or "click".
      run: where results go.
      clock: for the time of tracking and of scoring.

    Returns:
      The clips of which a frame or annotation cannot be read. They are tried again when the run goes on.
    """
    done = {record["clip"] for record in run.records}
    left_out: list[LeftOut] = []
    with tqdm(clips, unit="clip") as progress:
        for clip in progress:
            progress.set_postfix_str(clip.name)
            if clip.name in done:
                continue
            folder = run.folder / MASKS_FOLDER / clip.name
            try:
                scores = clock.time("model", track_clip, tracker, clip, prompt, folder)
                run.append([clock.time("metrics", _record, clip, folder, scores)])
            except ValueError as error:
                left_out.append(LeftOut(clip.name, "", str(error), unread=True))
    return left_out


def score_predictions(clips: Sequence[Clip], predictions: Path, clock: Clock) -> tuple[list[Record], list[LeftOut]]:
    """The records of masks made elsewhere, in PREDICTIONS/CLIP/FRAME.png, and the clips that cannot be read.

    Raises:
      PredictionError: on the first prediction that is missing or no mask of its clip.
    """
    records: list[Record] = []
    left_out: list[LeftOut] = []
    for clip in clips:
        try:
            records.append(clock.time("metrics", _record, clip, predictions / clip.name))
        except PredictionError:
            raise
        except ValueError as error:
            left_out.append(LeftOut(clip.name, "", str(error), unread=True))
    return records, left_out


def unscored_objects(records: Sequence[Record]) -> list[LeftOut]:
    """The objects in records of clips that have no frame to score."""
    reason = "it has no frame to score between its first, where it is prompted, and its last"
    return [LeftOut(r["clip"], f"object {number}", reason) for r in records for number in r.get("unscored", ())]


def _record(clip: Clip, predictions: Path, scores: ClipScores | None = None) -> Record:
    objects = clip.objects()
    unscored = [each.number for each in objects if not each.scored]
    record = {"clip": clip.name, "objects": score_clip(clip, predictions), "unscored": unscored}
    if scores:
        record["scores"] = [_scores_record(each, scores) for each in objects if each.scored]
    return record


def _scores_record(each: VideoObject, scores: ClipScores) -> Record:
    """The scores of an object's scored frames, in the order of `j_by_frame`."""
    columns = zip(*(scores[frame][each.number] for frame in each.scored), strict=True)
    logits, ious = ([None if math.isnan(v) else v for v in column] for column in columns)  # JSON has no NaN
    return {"object": each.number, "object_score_logits": logits, "predicted_iou": ious}


def track_clip(tracker: Tracker, clip: Clip, prompt: str, folder: Path) -> ClipScores:
    """Tracks all objects of a clip and writes a PNG for each frame, as the official evaluators read them.

    A pixel's value is the number of the object with the highest logit. As in DAVIS 2016, the picture is grayscale if
    the only number is 255; else it has DAVIS's palette.

    Returns:
      The scores of each frame; none if the tracker gives none.
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
    scores: ClipScores = {}
    for found in tracker.track(clip.frames, starts):
        name = names[found.frame]
        _save(number_pixels(found.logits, found.numbers), folder / f"{name}.png", is_grayscale)
        if found.scores is not None:
            pairs = np.stack(found.scores, axis=1).tolist()
            scores[name] = dict(zip(found.numbers, map(tuple, pairs), strict=True))
    return scores


def score_clip(clip: Clip, predictions: Path) -> list[Record]:
    """J and F of every object in every frame that counts; objects without such a frame are passed over.

    Args:
      clip: with the truth.
      predictions: the folder of PNGs whose values are the objects' numbers.

    Raises:
      PredictionError: naming the frame, if a prediction is missing, cannot be read, or has another size than the truth.
      ValueError: if an annotation cannot be read, naming it.
    """
    objects = [each for each in clip.objects() if each.scored]
    values: dict[int, list[tuple[float, float]]] = {each.number: [] for each in objects}
    for frame in sorted({frame for each in objects for frame in each.scored}):
        path = file_named(predictions, frame)
        if not path.exists():
            raise PredictionError(f"clip {clip.name} has no prediction for frame {frame}: expected {path}")
        expected = clip.numbers(frame)
        try:
            found = read_numbers(path, own_colours=False)
        except ValueError as error:
            raise PredictionError(str(error)) from error
        if found.shape != expected.shape:
            sizes = ["{1} x {0}".format(*numbers.shape) for numbers in (expected, found)]
            raise PredictionError(f"{path} must be as large as its annotation, {sizes[0]}, got {sizes[1]}")
        if [each.number for each in objects] == [VOID]:  # black and white: whatever number the only object has
            found = np.where(found > 0, VOID, 0)
        for each in objects:
            if frame in each.scored:
                masks = found == each.number, expected == each.number
                values[each.number].append((region_similarity(*masks), contour_accuracy(*masks)))
    return [_object_record(each, values[each.number]) for each in objects]


def _object_record(each: VideoObject, values: Sequence[tuple[float, float]]) -> Record:
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


def _save(numbers: Integer[np.ndarray, "h w"], path: Path, is_grayscale: bool) -> None:
    picture = Image.fromarray(numbers) if is_grayscale else numbers_picture(numbers)
    with new_file(path, overwrite=True) as partial:
        picture.save(partial)
