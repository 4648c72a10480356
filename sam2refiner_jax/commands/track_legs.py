"""The legs in which a video is tracked, and going on in the middle of one."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from ..video.predictor import SAM2VideoPredictor
from ..video.state import FrameScores, InferenceState

__all__ = ["Give", "Leg", "Position", "Tracked", "both_ways", "follow"]

Give = Callable[[SAM2VideoPredictor, InferenceState], None]
# A frame's index, the objects' numbers, their logits (objects, 1, h, w), and their scores.
Tracked = tuple[int, list[int], Float[np.ndarray, "objects 1 h w"], FrameScores]


@dataclasses.dataclass(frozen=True)
class Leg:
    """A stretch of a video that is tracked in one go.

    Attributes:
      first: the frame where it starts.
      last: where it ends; backwards, where that comes before.
      give: gives the prompts that count from here on; None for no new ones.
      without_first: the first frame is of an earlier leg.
    """

    first: int
    last: int
    give: Give | None = None
    without_first: bool = False

    @property
    def count(self) -> int:
        """How many frames it gives."""
        return abs(self.last - self.first) + 1 - self.without_first


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run is: the leg, and its last frame that is done."""

    leg: int
    frame: int


def both_ways(frame: int, num_frames: int, give: Give | None = None) -> list[Leg]:
    """From a frame to the end, and then from the one before it to the start."""
    forwards = Leg(frame, num_frames - 1, give)
    return [forwards, Leg(frame, 0, without_first=True)] if frame > 0 else [forwards]


def follow(
    predictor: SAM2VideoPredictor, state: InferenceState, legs: list[Leg], after: Position | None = None
) -> Iterator[tuple[Position, Tracked]]:
    """Tracks through legs, the first of which has been given its prompts; where nothing has begun, nothing is found.

    Args:
      predictor: of a model.
      state: of the video.
      legs: in order.
      after: where a run stopped whose state this is, to go on behind it.
    """
    for number, leg in enumerate(legs):
        reverse = leg.last < leg.first
        first, without_first = leg.first, leg.without_first
        if after is not None and number < after.leg:
            continue
        if after is not None and number == after.leg:
            if after.frame == leg.last:
                continue
            first, without_first = after.frame + (-1 if reverse else 1), False
        elif leg.give is not None and number > 0:
            leg.give(predictor, state)
        for tracked in _propagate(predictor, state, first, leg.last, reverse):
            if not (without_first and tracked[0] == first):
                yield Position(number, tracked[0]), tracked


def _propagate(
    predictor: SAM2VideoPredictor, state: InferenceState, first: int, last: int, reverse: bool
) -> Iterator[Tracked]:
    if state.objects:
        yield from predictor.propagate_in_video(
            state,
            start_frame_idx=first,
            max_frame_num_to_track=abs(last - first),
            reverse=reverse,
            return_scores=True,
        )
        return
    nothing = np.zeros((0, 1, state.video_height, state.video_width), np.float32)
    for frame in range(first, last + 1):
        yield frame, [], nothing, FrameScores(np.zeros(0, np.float32), np.zeros(0, np.float32))
