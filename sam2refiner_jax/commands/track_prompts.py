"""What `sam2refiner track` is asked: prompts on one frame, a folder of masks, a detector's boxes, exemplars."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..data.detections import FirstBox, read_detections
from ..data.files import files_in, read_bytes
from ..data.masks import read_objects
from ..video.frames import FrameFolder
from ..video.predictor import SAM2VideoPredictor
from ..video.state import InferenceState
from .by_exemplars import make_exemplars, read_examples
from .track_legs import Give, Leg, both_ways

__all__ = ["FramePrompts", "TrackPrompts"]


@dataclasses.dataclass(frozen=True)
class FramePrompts:
    """What to track, as shown on one frame: clicks on one object, or boxes around several, or a mask of any number.

    Attributes:
      points: clicks as x, y, label in pixels; label 1 on the object, 0 off it. Beside a mask of one object they correct
        it, as SAM 2 does: the decoder reads the mask and the clicks.
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
        if self.mask and self.boxes:
            raise ValueError("give either a mask or boxes, not both; points can correct a mask of one object")

    def give(self, predictor: SAM2VideoPredictor, state: InferenceState, frame: int) -> None:
        """Gives them to a predictor; objects have the mask's numbers, or are numbered from 1.

        Raises:
          ValueError: if there is no such frame, or they cannot be meant on it.
        """
        clicks = np.array(self.points, np.float32).reshape(-1, 3)
        points: dict[str, Any] = {}
        if self.points:
            points = {"points": clicks[:, :2], "labels": clicks[:, 2].astype(np.int32)}
        if self.mask:
            numbers = give_mask(predictor, state, frame, self.mask)
            if points and len(numbers) > 1:
                raise ValueError(
                    f"points correct a mask of one object, but {self.mask} shows {len(numbers)}: {numbers}"
                )
            if points:
                predictor.add_new_points_or_box(state, frame, numbers[0], **points)
            return
        for number, box in enumerate(self.boxes or (None,), start=1):
            corners = None if box is None else np.array(box, np.float32)
            predictor.add_new_points_or_box(state, frame, number, box=corners, **points)


def give_mask(predictor: SAM2VideoPredictor, state: InferenceState, frame: int, mask: Path) -> list[int]:
    """Gives every object in a picture its mask on a frame; the objects' numbers.

    Raises:
      ValueError: if there is no such frame, or the picture is no mask of it, naming it.
    """
    state.check_frame(frame)
    numbered = read_objects(mask, (state.video_height, state.video_width))
    numbers = [int(number) for number in np.unique(numbered[numbered > 0])]
    for number in numbers:
        predictor.add_new_mask(state, frame, number, numbered == number)
    return numbers


@dataclasses.dataclass(frozen=True)
class TrackPrompts:
    """All that `track` is asked.

    Attributes:
      points: as of `FramePrompts`.
      boxes: likewise.
      mask: likewise, or a folder of such pictures named as the frames.
      frame: that these are for.
      exemplar: pictures of the objects and their masks.
      detections: a detector's boxes in a JSON.
      score_threshold: boxes with lower scores do not count.

    Raises:
      ValueError: if there is nothing, or what cannot be mixed.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: Path | None = None
    frame: int = 0
    exemplar: tuple[tuple[Path, Path], ...] = ()
    detections: Path | None = None
    score_threshold: float = 0.0

    def __post_init__(self):
        on_frame = self.points or self.boxes or (self.mask and not self._has_folder)
        if self.detections and (self.points or self.boxes or self.mask):
            raise ValueError("detections are boxes already: give no points, boxes or mask beside them")
        if self.score_threshold and not self.detections:
            raise ValueError("score_threshold is for detections, of which there are none")
        if self._has_folder and (self.points or self.boxes):
            raise ValueError("mask is a folder, whose pictures say their frames: give no points or boxes beside it")
        if self.frame and not on_frame:
            raise ValueError("frame is for points, boxes or a mask on it, of which there are none")
        if on_frame or not (self.detections or self.exemplar or self._has_folder):
            self._on_frame()

    @property
    def _has_folder(self) -> bool:
        return self.mask is not None and self.mask.is_dir()

    def _on_frame(self) -> FramePrompts:
        return FramePrompts(self.points, self.boxes, self.mask)

    def as_plain(self) -> dict[str, Any]:
        """As JSON gives it back, with a checksum of what is in the files.

        Raises:
          ValueError: if a file cannot be read, naming it.
        """
        return {
            "points": [list(point) for point in self.points],
            "boxes": [list(box) for box in self.boxes],
            "mask": str(self.mask) if self.mask else None,
            "frame": self.frame,
            "exemplar": [[str(image), str(mask)] for image, mask in self.exemplar],
            "detections": str(self.detections) if self.detections else None,
            "score_threshold": self.score_threshold,
            "contents": {str(path): _checksum(path) for path in self.files()},
        }

    def files(self) -> list[Path]:
        """What is read."""
        given = [*([self.mask] if self.mask else []), *([self.detections] if self.detections else [])]
        return [*given, *(path for pair in self.exemplar for path in pair)]

    def first_boxes(self, video: Path, state: InferenceState) -> list[FirstBox]:
        """The instances of `detections`; none without.

        Raises:
          ValueError: if they cannot be read or are not of this video, naming the file.
        """
        if self.detections is None:
            return []
        names = state.frames.names() if isinstance(state.frames, FrameFolder) else None
        return read_detections(
            self.detections,
            video.resolve().name,
            names,
            len(state.frames),
            (state.video_height, state.video_width),
            self.score_threshold,
        )

    def legs(self, state: InferenceState, found: list[FirstBox]) -> list[Leg]:
        """How a video is gone through; `found` are its `first_boxes`.

        Prompts on one frame, and masks on several, are tracked from the earliest of their frames to either end, boxes
        of a detector each from its own frame on, exemplars from the first frame on.

        Raises:
          ValueError: if a folder of masks is not of this video.
        """
        last = len(state.frames) - 1
        if found:
            return self._legs_of_boxes(found, last)
        if self._has_folder:
            assert self.mask is not None
            masks = masks_by_frame(self.mask, state.frames.names())

            def give_masks(predictor: SAM2VideoPredictor, state: InferenceState) -> None:
                self._give_exemplars(predictor, state)
                for frame, path in masks.items():
                    give_mask(predictor, state, frame, path)

            return both_ways(min(masks), last + 1, give_masks)
        if not (self.points or self.boxes or self.mask):
            return [Leg(0, last, self._give_exemplars)]

        def give(predictor: SAM2VideoPredictor, state: InferenceState) -> None:
            self._give_exemplars(predictor, state)
            self._on_frame().give(predictor, state, self.frame)

        return both_ways(self.frame, last + 1, give)

    def _legs_of_boxes(self, found: list[FirstBox], last: int) -> list[Leg]:
        """From each frame with a first box to the one before the next such frame."""
        starts = sorted({box.frame for box in found})

        def give_at(frame: int) -> Give:
            def give(predictor: SAM2VideoPredictor, state: InferenceState) -> None:
                if frame == starts[0]:
                    self._give_exemplars(predictor, state)
                for box in found:
                    if box.frame == frame:
                        predictor.add_new_points_or_box(state, frame, box.number, box=np.array(box.box, np.float32))

            return give

        before = [Leg(0, starts[0] - 1)] if starts[0] > 0 else []
        ends = [*(start - 1 for start in starts[1:]), last]
        return before + [Leg(start, end, give_at(start)) for start, end in zip(starts, ends, strict=True)]

    def _give_exemplars(self, predictor: SAM2VideoPredictor, state: InferenceState) -> None:
        predictor.add_exemplars(state, make_exemplars(predictor, read_examples(self.exemplar)))


def _checksum(path: Path) -> str:
    """Of a file, or of the masks in a folder."""
    checksum = 0
    for each in files_in(path, (".png",)) if path.is_dir() else [path]:
        checksum = zlib.crc32(read_bytes(each), zlib.crc32(each.name.encode(), checksum))
    return f"{checksum:08x}"


def masks_by_frame(folder: Path, names: list[str]) -> dict[int, Path]:
    """The pictures of a folder of masks by the index of the frame whose name they have.

    Raises:
      ValueError: if there is none, or one has no frame's name.
    """
    found: dict[int, Path] = {}
    for path in files_in(folder, (".png",)):
        if path.stem not in names:
            raise ValueError(f"masks must have names of frames, {names[0]} to {names[-1]}; got {path}")
        found[names.index(path.stem)] = path
    if not found:
        raise ValueError(f"{folder} must hold masks as <name of a frame>.png, got none")
    return found
