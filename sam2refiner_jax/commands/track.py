"""The command `sam2refiner track`: objects through a video."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer, UInt8
from tqdm import tqdm
from tyro.conf import Positional

from ..atomic import new_file
from ..checkpoints import DEFAULT_CHECKPOINT, load_model
from ..data.masks import VOID, numbers_picture, read_numbers, read_objects
from ..image.overlay import draw_captions, draw_overlay
from ..video.frames import Frames
from ..video.policies import memory_policy
from ..video.predictor import SAM2VideoPredictor
from ..video.state import FrameScores, InferenceState
from ..video.writer import write_video
from .outputs import check_outputs, clear_results, save_picture, save_scores, source_of, video_tags

__all__ = [
    "FramePrompts",
    "Scores",
    "number_pixels",
    "propagate_both_ways",
    "track",
    "track_video",
    "write_overlay_video",
]

# Tracked frames that are remembered, besides those near the prompts: the command goes once from them to either end, so
# tracking's own reach is enough.
HISTORY = 16
SCORES_FILE = "scores.csv"

# An object's score and its mask's predicted IoU, both in [0, 1], NaN where there is none; by the object's number.
Scores = dict[int, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class FramePrompts:
    """What to track, as shown on one frame: clicks on one object, or boxes around several, or a mask of any number.

    Attributes:
      points: clicks as x, y, label in pixels; label 1 on the object, 0 off it.
      boxes: x0, y0, x1, y1 in pixels, one for each object.
      mask: path of a picture of the frame's size, in any form that `data.masks` reads.

    Raises:
      ValueError: if there is nothing, or what cannot be mixed.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: Path | None = None

    def __post_init__(self):
        if not (self.points or self.boxes or self.mask):
            raise ValueError("give points, boxes or a mask of the objects to track")
        if self.points and len(self.boxes) > 1:
            raise ValueError(f"points are for one object and cannot be mixed with {len(self.boxes)} boxes")
        if self.mask and (self.points or self.boxes):
            raise ValueError("give either a mask or points and boxes, not both")

    def give(self, predictor: SAM2VideoPredictor, state: InferenceState, frame: int) -> None:
        """Gives them to a predictor; objects have the mask's numbers, or are numbered from 1.

        Raises:
          ValueError: if there is no such frame, or they cannot be meant on it.
        """
        if self.mask:
            numbered = read_objects(self.mask, (state.video_height, state.video_width))
            for number in np.unique(numbered[numbered > 0]):
                predictor.add_new_mask(state, frame, int(number), numbered == number)
            return
        clicks = np.array(self.points, np.float32) if self.points else None
        for number, box in enumerate(self.boxes or (None,), start=1):
            predictor.add_new_points_or_box(
                state,
                frame,
                number,
                points=None if clicks is None else clicks[:, :2],
                labels=None if clicks is None else clicks[:, 2].astype(np.int32),
                box=None if box is None else np.array(box, np.float32),
            )


def track(
    video: Positional[Path],
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    output: Path = Path("out"),
    points: tuple[tuple[float, float, int], ...] = (),
    boxes: tuple[tuple[float, float, float, float], ...] = (),
    mask: Path | None = None,
    frame: int = 0,
    overlay: bool = True,
    show_scores: bool = False,
    batch: int = 1,
    fill_hole_area: int = 0,
    memory: str = "official",
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Track objects through a video, or every video in a folder, from clicks, boxes or a mask on one frame.

    It writes the masks as OUTPUT/NAME/00000.png and so on, in DAVIS layout: palette pictures of the video's size whose
    value is the object's number, 0 where there is none; 16-bit ones if a number is beyond 255. OUTPUT/NAME.mp4 shows
    them on the video. OUTPUT/NAME/scores.csv has for each frame and object the probability that the object is there and
    the predicted IoU of its mask, before a refiner made it finer; blank where the mask was given. What was written
    stays if a later frame cannot be read. Of several videos those that cannot be read are named, and the others are
    tracked.

    Args:
      video: A video file, or a folder of JPEGs (or PNGs, WebPs, TIFFs) named by frame number; or a folder of videos,
        each a file or a folder of frames.
      checkpoint: A checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory, for finer masks.
      output: The folder for the results. Those of an earlier run on the same video are replaced as a whole, and nothing
        else.
      points: Clicks on one object, each X Y LABEL: pixels, then 1 on the object or 0 off it.
      boxes: Boxes, each X0 Y0 X1 Y1 in pixels; every box is an object of its own, numbered from 1.
      mask: A picture of the frame's size: every number in a palette or gray picture, or every colour but black, is an
        object; white on black is one. For a folder of videos, a folder that holds for each video NAME.png, or NAME/
        with such pictures named as the frames that they are for.
      frame: The frame that the prompts are for, unless their names say it; from a later one than the first, tracking
        runs in both directions.
      overlay: Write the video that shows the masks.
      show_scores: Write the two scores beside each object in that video.
      batch: How many videos of a folder advance together, over all devices; on GPUs and TPUs several are quicker than
        one by one.
      fill_hole_area: Fill holes of at most this area, in pixels of the low-resolution mask.
      memory: What is remembered of tracked frames: official, quality, motion, tree, or a policy of your own.
      image_size: Side of the square that frames are squeezed to, a multiple of 32; the checkpoint's own unless given.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    prompts = FramePrompts(points, boxes, mask)
    if show_scores and not overlay:
        raise ValueError("show_scores needs the overlay, which shows them")
    from .track_folder import find_videos, track_folder, video_jobs  # which stands on this module

    jobs = video_jobs(find_videos(video), prompts, frame, output, overlay=overlay)
    if batch < 1 or (batch > 1 and not jobs):
        raise ValueError(f"batch must be at least 1, and 1 for a single video, got {batch}")
    folder = output / (video.resolve().name if video.is_dir() else video.resolve().stem)
    shown = folder.with_name(folder.name + ".mp4")
    if not jobs:
        _check_place(folder, shown if overlay else None, video, [mask] if mask else [])
    policy = memory_policy(memory)
    model = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
    predictor = SAM2VideoPredictor(model, fill_hole_area=fill_hole_area, memory=policy)
    if jobs:
        track_folder(predictor, jobs, batch, show_scores=show_scores)
        return
    state = predictor.init_state(video, history=HISTORY)
    prompts.give(predictor, state, frame)

    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.png", SCORES_FILE):
        clear_results(folder, source_of(video), pattern)
    masks: dict[int, Path] = {}
    scores: dict[int, Scores] = {}
    try:
        for index, path, of_objects in track_video(predictor, state, folder, frame, source_of(video)):
            masks[index], scores[index] = path, of_objects
    finally:  # Also where a frame cannot be read: the table and the overlay have what there is.
        if masks:
            save_scores(score_rows(masks, scores), folder / SCORES_FILE, source_of(video))
        if overlay and masks:
            write_overlay_video(state.frames, masks, shown, source_of(video), scores if show_scores else None)
    print(f"masks: {folder}" + (f", overlay: {shown}" if overlay else ""))


def _check_place(folder: Path, shown: Path | None, video: Path, inputs: list[Path]) -> None:
    """Raises a ValueError if anything but earlier results of the video is where its results go."""
    outputs = [*results_there(folder), *([shown] if shown else [])]
    check_outputs([(path, source_of(video)) for path in outputs], [video, *inputs])


def results_there(folder: Path) -> list[Path]:
    """What a folder for results holds that new ones might replace; the path itself if it is no folder."""
    if folder.is_dir():
        return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [folder] if folder.exists() else []


def propagate_both_ways(
    predictor: SAM2VideoPredictor, state: InferenceState, frame: int, **options: Any
) -> Iterator[Any]:
    """What `propagate_in_video` yields from a frame to the end, and then from the one before it to the start."""
    yield from predictor.propagate_in_video(state, start_frame_idx=frame, **options)
    if frame > 0:
        backwards = predictor.propagate_in_video(state, start_frame_idx=frame, reverse=True, **options)
        yield from itertools.islice(backwards, 1, None)


def track_video(
    predictor: SAM2VideoPredictor, state: InferenceState, folder: Path, frame: int, source: str
) -> Iterator[tuple[int, Path, Scores]]:
    """Propagates the prompts on `frame` to the whole video, writing a picture of the numbers for each frame at once.

    Yields:
      A frame's index, the picture's path, and the objects' scores.
    """
    names = state.frames.names()
    both_ways = propagate_both_ways(predictor, state, frame, return_scores=True)
    for index, numbers, logits, scores in tqdm(both_ways, total=len(names), unit="frame"):
        path = folder / f"{names[index]}.png"
        save_picture(numbers_picture(number_pixels(logits[:, 0], numbers)), path, source)
        yield index, path, scores_by_number(numbers, scores)


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
