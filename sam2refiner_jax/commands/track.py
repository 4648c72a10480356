"""The command `sam2refiner track`: objects through a video."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer, UInt8
from tqdm import tqdm
from tyro.conf import Positional, UseAppendAction

from ..atomic import new_file, remove_partial_files
from ..checkpoints import DEFAULT_CHECKPOINT, load_model
from ..data.masks import VOID, numbers_picture, read_numbers
from ..image.overlay import draw_captions, draw_overlay
from ..video.frames import Frames
from ..video.policies import memory_policy
from ..video.predictor import SAM2VideoPredictor
from ..video.state import FrameScores, InferenceState
from ..video.writer import write_video
from .outputs import check_outputs, clear_results, save_picture, save_scores, source_of, video_tags
from .track_legs import Leg, follow
from .track_progress import DOCUMENT, STATE_FILE, Progress, Scores
from .track_prompts import TrackPrompts

__all__ = [
    "Scores",
    "number_pixels",
    "track",
    "write_overlay_video",
]

# Tracked frames that are remembered, besides those near the prompts: the command goes once from them to either end, so
# tracking's own reach is enough.
HISTORY = 16
SCORES_FILE = "scores.csv"
# Frames between saves of a run that can go on, unless told otherwise.
SAVE_EVERY = 100


def track(
    video: Positional[Path],
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    output: Path = Path("out"),
    points: tuple[tuple[float, float, int], ...] = (),
    boxes: tuple[tuple[float, float, float, float], ...] = (),
    mask: Path | None = None,
    frame: int = 0,
    exemplar: UseAppendAction[tuple[tuple[Path, Path], ...]] = (),
    detections: Path | None = None,
    score_threshold: float = 0.0,
    overlay: bool = True,
    show_scores: bool = False,
    fill_hole_area: int = 0,
    memory: str = "official",
    resume: bool = False,
    save_every: int | None = None,
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Track objects through a video from clicks, boxes or masks, from a detector's boxes, or from pictures of them.

    It writes the masks as OUTPUT/NAME/00000.png and so on, in DAVIS layout: palette pictures of the video's size whose
    value is the object's number, 0 where there is none; 16-bit ones if a number is beyond 255. OUTPUT/NAME.mp4 shows
    them on the video. OUTPUT/NAME/scores.csv has for each frame and object the probability that the object is there and
    the predicted IoU of its mask, before a refiner made it finer; blank where the mask was given. What was written
    stays if a later frame cannot be read. OUTPUT/NAME/track.json comes last and says what all was made with.

    Args:
      video: A video file, or a folder of JPEGs (or PNGs, WebPs, TIFFs) named by frame number.
      checkpoint: A checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory, for finer masks.
      output: The folder for the results. Those of an earlier run on the same video are replaced as a whole, and nothing
        else.
      points: Clicks on one object, each X Y LABEL: pixels, then 1 on the object or 0 off it. They correct a mask of one
        object that is given beside them.
      boxes: Boxes, each X0 Y0 X1 Y1 in pixels; every box is an object of its own, numbered from 1.
      mask: A picture of the frame's size: every number in a palette or gray picture, or every colour but black, is an
        object; white on black is one. Or a folder of such PNGs named as frames, each for its own frame.
      frame: The frame that the prompts are for; from a later one than the first, tracking runs in both directions.
      exemplar: IMAGE MASK: a picture of the objects that is no frame of the video, and a mask of it, numbered as `mask`
        is. Tracking needs no other prompt then. Can be given several times.
      detections: A detector's boxes: a JSON of CocoVID's or YouTube-VIS's form. Each instance is tracked from its first
        box on.
      score_threshold: Of detections, boxes with lower scores do not count.
      overlay: Write the video that shows the masks.
      show_scores: Write the two scores beside each object in that video.
      fill_hole_area: Fill holes of at most this area, in pixels of the low-resolution mask.
      memory: What is remembered of tracked frames: official, quality, motion, tree, or a policy of your own.
      resume: Go on with a run that was interrupted, with the same results; from the start if there is none. Saves its
        state every 100 frames.
      save_every: Save the state every so many frames, for a later --resume.
      image_size: Side of the square that frames are squeezed to, a multiple of 32; the checkpoint's own unless given.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    prompts = TrackPrompts(points, boxes, mask, frame, exemplar, detections, score_threshold)
    if show_scores and not overlay:
        raise ValueError("show_scores needs the overlay, which shows them")
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    folder, source = output / (video.resolve().name if video.is_dir() else video.resolve().stem), source_of(video)
    shown = folder.with_name(folder.name + ".mp4")
    _check_place(folder, shown if overlay else None, video, prompts.files())
    settings = {
        "checkpoint": checkpoint,
        "refiner": str(refiner) if refiner else None,
        **prompts.as_plain(),
        "overlay": overlay,
        "show_scores": show_scores,
        "fill_hole_area": fill_hole_area,
        "memory": memory,
        "image_size": image_size,
        "dtype": dtype,
    }
    progress = Progress(folder, source, settings, save_every or (SAVE_EVERY if resume else None))
    if resume and progress.check():
        print(f"done already: {folder}")
        return
    policy = memory_policy(memory)
    model = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
    predictor = SAM2VideoPredictor(model, fill_hole_area=fill_hole_area, memory=policy)
    _track_one(predictor, video, prompts, progress, resume, shown if overlay else None, show_scores)
    print(f"masks: {folder}" + (f", overlay: {shown}" if overlay else ""))


def _track_one(
    predictor: SAM2VideoPredictor,
    video: Path,
    prompts: TrackPrompts,
    progress: Progress,
    resume: bool,
    shown: Path | None,
    show_scores: bool,
) -> None:
    """Tracks a video, from its start or from where `progress` is, and writes all results."""
    folder, source = progress.folder, progress.source
    state = predictor.init_state(video, history=HISTORY)
    paths = {index: folder / f"{name}.png" for index, name in enumerate(state.frames.names())}
    found = prompts.first_boxes(video, state)
    legs = prompts.legs(state, found)
    loaded = progress.load(predictor, video, paths) if resume else None
    if loaded is not None:
        state = loaded
    elif legs[0].give is not None:
        legs[0].give(predictor, state)
    others = (folder / SCORES_FILE, folder / STATE_FILE, folder / DOCUMENT, *([shown] if shown else []))
    remove_partial_files([*paths.values(), *others])
    folder.mkdir(parents=True, exist_ok=True)
    if loaded is None:
        for pattern in ("*.png", SCORES_FILE, STATE_FILE, DOCUMENT):
            clear_results(folder, source, pattern)
    try:
        _track_frames(predictor, state, legs, progress, paths)
    finally:  # Also where a frame cannot be read: the table and the overlay have what there is.
        masks = {index: paths[index] for index in progress.scores}
        if any(progress.scores.values()):
            save_scores(_score_rows(masks, progress.scores), folder / SCORES_FILE, source)
        if shown and masks:
            write_overlay_video(state.frames, masks, shown, source, progress.scores if show_scores else None)
    progress.finish({"video": source, "frames": len(paths), "detections": [box._asdict() for box in found]})


def _track_frames(
    predictor: SAM2VideoPredictor,
    state: InferenceState,
    legs: list[Leg],
    progress: Progress,
    paths: dict[int, Path],
) -> None:
    """Tracks what is left, writing a picture of the numbers for each frame at once."""
    with tqdm(total=sum(leg.count for leg in legs), initial=len(progress.scores), unit="frame") as bar:
        for position, (index, numbers, logits, scores) in follow(predictor, state, legs, progress.position):
            save_picture(numbers_picture(number_pixels(logits[:, 0], numbers)), paths[index], progress.source)
            progress.add(predictor, state, position, scores_by_number(numbers, scores))
            bar.update()


def _check_place(folder: Path, shown: Path | None, video: Path, inputs: list[Path]) -> None:
    """Raises a ValueError if anything but earlier results of the video is where its results go."""
    there = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")] if folder.is_dir() else []
    outputs = [*there, *([shown] if shown else []), *([folder] if folder.exists() and not folder.is_dir() else [])]
    check_outputs([(path, source_of(video)) for path in outputs], [video, *inputs])


def scores_by_number(numbers: list[int], scores: FrameScores) -> Scores:
    """The scores of objects on a frame, the object score as a probability."""
    found = 1 / (1 + np.exp(-scores.object_score_logits.astype(np.float64)))
    return dict(zip(numbers, zip(found.tolist(), scores.predicted_iou.tolist(), strict=True), strict=True))


def _score_rows(masks: dict[int, Path], scores: dict[int, Scores]) -> Iterator[list[object]]:
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
