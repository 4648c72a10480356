"""One video on the page: an object is clicked on in any of its frames and tracked through all of them."""

import io
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from ..image.overlay import draw_overlay
from ..sam2 import SAM2
from ..video.predictor import SAM2VideoPredictor
from ..video.reader import VideoReader
from ..video.writer import write_video
from .limits import Limits, Refused, check_clip
from .photo import MOST_CLICKS
from .pictures import at_size, mask_png, resized, shown_size
from .sessions import Turns

__all__ = ["ClipSession"]

# Tracked frames that are remembered besides those near the clicks; tracking itself looks back no farther.
HISTORY = 16
OBJECT = 1


class ClipSession:
    """A video's bytes, the clicks on one object in it, and the masks that they gave, each a small PNG.

    Args:
      model: shared by all videos.
      data: the file's bytes.
      limits: what the video may be.
      refine: whether masks are made finer, where the model can.

    Attributes:
      size: height and width of a frame.
      shown: height and width at which frames are shown and the result plays.
      clicks: on each frame that has any: x and y in its pixels, and the label.
      closed: set when nobody waits for the video any more; what runs then ends.

    Raises:
      Refused: if the bytes are no video within the limits.
    """

    def __init__(self, model: SAM2, data: bytes, limits: Limits, *, refine: bool):
        check_clip(data, limits)
        self._predictor = SAM2VideoPredictor(model, add_all_frames_to_correct_as_cond=True, refine=refine)
        try:
            self._reader = VideoReader(data)
            self._state = self._predictor.init_state(data, history=HISTORY)
        except ValueError as error:
            raise Refused(f"The video cannot be read: {error}.") from error
        self._masks: dict[int, bytes] = {}
        self._steps: list[int] = []
        self.size = self._reader.height, self._reader.width
        self.shown = shown_size(*self.size)
        self.clicks: dict[int, tuple[tuple[float, float, int], ...]] = {}
        self.closed = False
        self._is_tracking = False

    def __len__(self) -> int:
        return len(self._reader)

    def frame(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """A frame, as it is shown.

        Raises:
          Refused: if there is no such frame, or it cannot be read.
        """
        self._check(index)
        try:
            return resized(np.asarray(next(self._reader.frames_from(index))), self.shown)
        except ValueError as error:
            raise Refused(f"The frame cannot be read: {error}.") from error

    def mask(self, index: int) -> Bool[np.ndarray, "h w"] | None:
        """What is known of the object in a frame, as it is shown."""
        png = self._masks.get(index)
        return None if png is None else np.asarray(Image.open(io.BytesIO(png))) > 0

    def click(self, index: int, x: float, y: float, label: int) -> None:
        """Adds a click in a frame, at a share of its width and height.

        Raises:
          Refused: if there is no such frame, or there are as many clicks in it as one program takes.
        """
        self._check(index)
        self._check_idle()
        before = self.clicks.get(index, ())
        if len(before) == MOST_CLICKS:
            raise Refused(f"{MOST_CLICKS} clicks a frame are the most; take one back, or start anew.")
        height, width = self.size
        self.clicks[index] = (*before, (x * width, y * height, label))
        self._steps.append(index)
        self._ask(index)
        self._forget_tracked()

    def undo(self) -> int | None:
        """Takes the last click back; returns its frame, None if there was none."""
        self._check_idle()
        if not self._steps:
            return None
        index = self._steps.pop()
        self.clicks[index] = self.clicks[index][:-1]
        self._predictor.reset_state(self._state)
        self._masks.clear()
        self.clicks = {frame: clicks for frame, clicks in self.clicks.items() if clicks}
        for frame in self.clicks:
            self._ask(frame)
        return index

    def clear(self) -> None:
        """Takes all clicks back."""
        self._check_idle()
        self._predictor.reset_state(self._state)
        self._masks.clear()
        self._steps.clear()
        self.clicks.clear()

    def propagate(self, turns: Turns) -> Iterator[int]:
        """Tracks the object through the video, from the first frame with clicks to either end.

        Args:
          turns: taken while a frame is worked on, and given back between frames.

        Yields:
          How many frames are done.

        Raises:
          Refused: if there are no clicks, a frame cannot be read, or nobody waits any more.
        """
        if not self.clicks:
            raise Refused("Click on the object in a frame first.")
        self._check_idle()
        self._is_tracking = True
        try:
            yield from self._tracked(turns)
        finally:
            self._is_tracking = False

    def _tracked(self, turns: Turns) -> Iterator[int]:
        start = min(self.clicks)
        forwards = self._predictor.propagate_in_video(self._state, start_frame_idx=start)
        backwards = self._predictor.propagate_in_video(self._state, start_frame_idx=start, reverse=True)
        passes = itertools.chain(forwards, itertools.islice(backwards, 1, None))
        for done in itertools.count(1):
            with turns:
                if self.closed:
                    raise Refused("The video was closed.")
                try:
                    found = next(passes, None)
                except ValueError as error:
                    raise Refused(f"Tracking ends here: {error}.") from error
                if found is None:
                    return
                index, _, logits = found
                self._masks[index] = mask_png(at_size(logits[0, 0] > 0, self.shown))
            yield done

    def result(self) -> bytes:
        """The video with the masks found so far, an MP4.

        Raises:
          Refused: if a frame cannot be read.
        """
        file = io.BytesIO()
        try:
            write_video(file, self._pictures(), self._reader.times, pixel_aspect=self._reader.pixel_aspect)
        except ValueError as error:
            raise Refused(f"The video cannot be shown: {error}.") from error
        return file.getvalue()

    def _pictures(self) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        for index, image in enumerate(self._reader.frames_from(0)):
            mask = self.mask(index)
            photo = resized(np.asarray(image), self.shown)
            yield index, photo if mask is None else draw_overlay(photo, mask[None])

    def _ask(self, index: int) -> None:
        clicks = np.array(self.clicks[index], np.float32)
        _, _, logits = self._predictor.add_new_points_or_box(
            self._state, index, OBJECT, points=clicks[:, :2], labels=clicks[:, 2].astype(np.int32)
        )
        self._masks[index] = mask_png(at_size(logits[0, 0] > 0, self.shown))

    def _forget_tracked(self) -> None:
        """Masks that were tracked before a click are of no use after it."""
        self._masks = {index: mask for index, mask in self._masks.items() if index in self.clicks}

    def _check_idle(self) -> None:
        if self._is_tracking:
            raise Refused("The object is being tracked; wait until that is done.")

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise Refused(f"The video's frames are 0 to {len(self) - 1}.")
