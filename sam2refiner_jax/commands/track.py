"""The command `sam2refiner track`: objects through a video."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer, UInt8
from tqdm import tqdm
from tyro.conf import Positional

from ..atomic import new_file
from ..checkpoints import DEFAULT_CHECKPOINT, load_model
from ..data.masks import VOID, numbers_picture, read_numbers, read_objects
from ..image.overlay import draw_overlay
from ..video.frames import FRAME_RATE, Frames
from ..video.policies import memory_policy
from ..video.predictor import SAM2VideoPredictor
from ..video.state import InferenceState
from .outputs import check_outputs, clear_results, save_picture, source_of, video_tags

__all__ = ["track", "track_video", "write_overlay_video"]

# Tracked frames that are remembered, besides those near the prompts: the command goes once from them to either end, so
# tracking's own reach is enough.
HISTORY = 16


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
    fill_hole_area: int = 0,
    memory: str = "official",
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Track objects through a video from clicks, boxes or a mask on one frame.

    It writes the masks as OUTPUT/NAME/00000.png and so on, in DAVIS layout: palette pictures of the video's size whose
    value is the object's number, 0 where there is none; 16-bit ones if a number is beyond 255. OUTPUT/NAME.mp4 shows
    them on the video. What was written stays if a later frame cannot be read.

    Args:
      video: A video file, or a folder of JPEGs (or PNGs, WebPs, TIFFs) named by frame number.
      checkpoint: A checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory, for finer masks.
      output: The folder for the results. Those of an earlier run on the same video are replaced as a whole, and nothing
        else.
      points: Clicks on one object, each X Y LABEL: pixels, then 1 on the object or 0 off it.
      boxes: Boxes, each X0 Y0 X1 Y1 in pixels; every box is an object of its own, numbered from 1.
      mask: A picture of the frame's size: every number in a palette or gray picture, or every colour but black, is an
        object; white on black is one.
      frame: The frame that the prompts are for; from a later one than the first, tracking runs in both directions.
      overlay: Write the video that shows the masks.
      fill_hole_area: Fill holes of at most this area, in pixels of the low-resolution mask.
      memory: What is remembered of tracked frames: official, quality, motion, tree, or a policy of your own.
      image_size: Side of the square that frames are squeezed to, a multiple of 32; the checkpoint's own unless given.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    if not (points or boxes or mask):
        raise ValueError("give points, boxes or a mask of the objects to track")
    if points and len(boxes) > 1:
        raise ValueError(f"points are for one object and cannot be mixed with {len(boxes)} boxes")
    if mask and (points or boxes):
        raise ValueError("give either a mask or points and boxes, not both")
    folder = output / (video.resolve().name if video.is_dir() else video.resolve().stem)
    shown = folder.with_name(folder.name + ".mp4")
    _check_place(folder, shown if overlay else None, video, [mask] if mask else [])
    policy = memory_policy(memory)
    model = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
    predictor = SAM2VideoPredictor(model, fill_hole_area=fill_hole_area, memory=policy)
    state = predictor.init_state(video, history=HISTORY)
    if mask:
        numbered = read_objects(mask, (state.video_height, state.video_width))
        for number in np.unique(numbered[numbered > 0]):
            predictor.add_new_mask(state, frame, int(number), numbered == number)
    else:
        clicks = np.array(points, np.float32) if points else None
        for number, box in enumerate(boxes or (None,), start=1):
            predictor.add_new_points_or_box(
                state,
                frame,
                number,
                points=None if clicks is None else clicks[:, :2],
                labels=None if clicks is None else clicks[:, 2].astype(np.int32),
                box=None if box is None else np.array(box, np.float32),
            )

    folder.mkdir(parents=True, exist_ok=True)
    clear_results(folder, source_of(video))
    masks: dict[int, Path] = {}
    try:
        for index, path in track_video(predictor, state, folder, frame, source_of(video)):
            masks[index] = path
    finally:  # Also where a frame cannot be read: the overlay shows what there is.
        if overlay and masks:
            write_overlay_video(state.frames, masks, shown, source_of(video))
    print(f"masks: {folder}" + (f", overlay: {shown}" if overlay else ""))


def _check_place(folder: Path, shown: Path | None, video: Path, inputs: list[Path]) -> None:
    """Raises a ValueError if anything but earlier results of the video is where its results go."""
    there = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")] if folder.is_dir() else []
    outputs = [*there, *([shown] if shown else []), *([folder] if folder.exists() and not folder.is_dir() else [])]
    check_outputs([(path, source_of(video)) for path in outputs], [video, *inputs])


def track_video(
    predictor: SAM2VideoPredictor, state: InferenceState, folder: Path, frame: int, source: str
) -> Iterator[tuple[int, Path]]:
    """Propagates the prompts on `frame` to the whole video, writing a picture of the numbers for each frame at once.

    Yields:
      A frame's index and the picture's path.
    """
    names = state.frames.names()
    passes: list[Iterator] = [predictor.propagate_in_video(state, start_frame_idx=frame)]
    if frame > 0:
        backwards = predictor.propagate_in_video(state, start_frame_idx=frame, reverse=True)
        passes.append(itertools.islice(backwards, 1, None))
    for index, numbers, logits in tqdm(itertools.chain(*passes), total=len(names), unit="frame"):
        path = folder / f"{names[index]}.png"
        save_picture(numbers_picture(number_pixels(logits[:, 0], numbers)), path, source)
        yield index, path


def number_pixels(logits: np.ndarray, numbers: list[int]) -> Integer[np.ndarray, "h w"]:
    """The number of the object with the highest logit at each pixel, 0 where none is positive."""
    best = logits.argmax(axis=0)
    # Of 8 bits, as DAVIS has them, unless a number is beyond.
    values = np.array(numbers, np.uint8 if max(numbers) <= VOID else np.uint16)
    return np.where(logits.max(axis=0) > 0, values[best], values.dtype.type(0))


def write_overlay_video(frames: Frames, masks: dict[int, Path], path: Path, source: str) -> None:
    """Writes a video of the frames that have pictures of masks, showing them in it, at the times of `frames`.

    It starts with the first such frame. The last row and column of odd sides, which the encoder cannot have, are not
    in it; a side of one pixel is doubled.
    """
    import av

    # The coarsest unit that all times are whole numbers of, as far as the encoder and players have it.
    codec, finest = ("libx264", 90000) if "libx264" in av.codecs_available else ("mpeg4", 65535)
    times = frames.times()
    unit = Fraction(1, min(math.lcm(*(time.denominator for time in times)), finest))
    rate = Fraction(len(times) - 1, times[-1]) if len(times) > 1 else Fraction(FRAME_RATE)
    height, width = (max(2, side - side % 2) for side in (frames.height, frames.width))
    with new_file(path, overwrite=True) as partial, av.open(str(partial), "w") as container:
        container.metadata.update(video_tags(source))
        stream: Any = container.add_stream(codec, rate=rate.limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = unit
        stream.codec_context.sample_aspect_ratio = frames.pixel_aspect
        stamp, left = -1, sorted(masks, reverse=True)
        for index, photo in enumerate(frames.photos()):
            if index == left[-1]:
                shown = np.pad(draw_objects(photo, masks[index]), ((0, 1), (0, 1), (0, 0)), mode="edge")
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown[:height, :width]), format="rgb24")
                stamp = max(stamp + 1, round((times[index] - times[min(masks)]) / unit))
                frame.pts, frame.time_base = stamp, unit
                container.mux(stream.encode(frame))
                left.pop()
            if not left:  # Frames after the last mask may be the ones that cannot be read.
                break
        container.mux(stream.encode())


def draw_objects(photo: UInt8[np.ndarray, "h w 3"], path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with the objects that a picture numbers."""
    numbered = read_numbers(path)
    numbers = np.unique(numbered[numbered > 0])
    return draw_overlay(photo, numbers[:, None, None] == numbered, colours=numbers - 1)
