"""What the video benchmark measures: predictors of SAM 2, ours or the official one; `baselines` need no model."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from ..checkpoints import weights_checksum
from ..commands.track_run import HISTORY
from ..image.boxes import box_around
from ..video.predictor import SAM2VideoPredictor
from ..video.state import FrameScores
from .clicks import next_click
from .truth_prompts import Prompt

__all__ = ["PredictorTracker", "Start", "TrackedObjects", "Tracker", "our_tracker", "start_of"]


@dataclasses.dataclass(frozen=True)
class Start:
    """What a tracker is given of an object in its first frame: a mask, a box or a click on it."""

    mask: Bool[np.ndarray, "h w"] | None = None
    prompt: Prompt = dataclasses.field(default_factory=Prompt)


# By frame, then by the object's number.
Starts = dict[int, dict[int, Start]]


class TrackedObjects(NamedTuple):
    """What a tracker found in a frame.

    Attributes:
      frame: its index.
      numbers: of the objects that have started.
      logits: of their masks.
      scores: how sure the tracker is of them; None if it does not say.
    """

    frame: int
    numbers: list[int]
    logits: Float[np.ndarray, "objects h w"]
    scores: FrameScores | None = None


@runtime_checkable
class Tracker(Protocol):
    """Follows objects through a clip.

    Attributes:
      name: in reports.
    """

    name: str

    def settings(self) -> dict[str, Any]:
        """What its masks depend on, as plain values."""
        ...

    def track(self, frames: Path, starts: Starts) -> Iterator[TrackedObjects]:
        """Yields what is found in each frame from the first start on."""
        ...


def start_of(kind: str, truth: Bool[np.ndarray, "h w"]) -> Start:
    """The start of this kind, `mask`, `box` or `click`: the click is the one the clicking robot makes first."""
    if kind == "mask":
        return Start(mask=truth)
    if kind == "box":
        return Start(prompt=Prompt(box=box_around(truth)))
    return Start(prompt=Prompt(points=(next_click(np.zeros_like(truth), truth).point,)))


class PredictorTracker:
    """A video predictor with the interface of `SAM2VideoPredictor`.

    Args:
      predictor: ours or the official one.
      name: in reports.
      settings: what its masks depend on.
      with_scores: ask it for scores too, which ours has.
      options: for its `init_state`.
    """

    def __init__(
        self, predictor: Any, name: str, settings: dict[str, Any], *, with_scores: bool = False, **options: Any
    ):
        self.name = name
        self._predictor = predictor
        self._settings = settings
        self._asks = {"return_scores": True} if with_scores else {}
        self._options = options

    def settings(self) -> dict[str, Any]:
        return {"tracker": self.name, **self._settings}

    def track(self, frames: Path, starts: Starts) -> Iterator[TrackedObjects]:
        """Tracks up to the first frame of another object, adds that one, and so on; no object affects another."""
        state = self._predictor.init_state(str(frames), **self._options)
        firsts = sorted(starts)
        for first, following in itertools.zip_longest(firsts, firsts[1:]):
            for number, start in starts[first].items():
                self._add(state, first, number, start)
            for index, numbers, logits, *scores in self._predictor.propagate_in_video(
                state,
                start_frame_idx=first,
                max_frame_num_to_track=None if following is None else following - first - 1,
                **self._asks,
            ):
                yield TrackedObjects(index, list(numbers), np.asarray(logits)[:, 0], *scores)

    def _add(self, state: Any, frame: int, number: int, start: Start) -> None:
        if start.mask is not None:
            self._predictor.add_new_mask(state, frame, number, start.mask)
            return
        prompt = start.prompt
        self._predictor.add_new_points_or_box(
            state, frame, number, points=prompt.coordinates, labels=prompt.labels, box=prompt.corners
        )


def our_tracker(predictor: SAM2VideoPredictor, name: str, **further: Any) -> PredictorTracker:
    """Our predictor as a tracker that remembers as much of a clip as tracking forwards needs; `further` settings."""
    settings = {
        "dtype": predictor.model.dtype.name,
        "weights": weights_checksum(predictor.model),
        "refined": predictor.model.refiner is not None,
        **further,
    }
    if not predictor.memory.follows_frames:  # runs of before there were others have no such setting
        settings["memory"] = repr(predictor.memory)
    return PredictorTracker(predictor, name, settings, with_scores=True, history=HISTORY)
