"""A clip on its way through a propagation: what it asks of the device on a frame, and what becomes of the answer.

`SAM2VideoPredictor.propagate_in_video` takes one clip along its way, `together.py` and `streams.py` many side by side.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..image.prompts import ObjectPrompts, pack_prompts
from ..nn.prompt_encoder import Prompts
from ..sam2 import SAM2
from .memory_bank import MemoryBank
from .snapshots import Snapshot
from .state import FrameRecord, FrameScores, InferenceState, assemble_bank, scores_of
from .tracking import Segmentation

if TYPE_CHECKING:
    from .predictor import SAM2VideoPredictor

__all__ = ["NO_CLICKS", "Propagation", "Shown", "first_prompts"]

# A frame's index, the object ids, their mask logits, (objects, 1, height, width), and their scores.
Shown = tuple[int, list[Any], Float[np.ndarray, "objects 1 h w"], FrameScores]


# Points and their labels, of one object.
Clicks = tuple[Float[np.ndarray, "_ 2"], Int[np.ndarray, " _"]]
NO_CLICKS: Clicks = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)


def first_prompts(model: SAM2, clicks: Sequence[Clicks], rows: int) -> Prompts | None:
    """What the refiner reads as the prompts of frames that have none; None if it reads no such.

    Args:
      model: of the refiner.
      clicks: of each object (`ObjectHistory.first_points`).
      rows: how many rows there are to be.
    """
    if model.refiner is None or not model.refiner.reuse_first_prompt:
        return None
    prompts = [ObjectPrompts(points[None], labels[None], None) for points, labels in clicks]
    return pack_prompts(prompts, model.config.mask_size, rows=rows)


class Propagation:
    """One clip's objects and frames, in one direction.

    Args:
      predictor: whose settings count.
      state: the clip, whose prompts have memories (`propagate_in_video_preflight`).
      order: the frames to go through.
      reverse: whether they descend.

    Attributes:
      state: the clip.
      reverse: as given.
      obj_ids: the objects that there were at the start.
      objects: their histories.
      order: as given.
      frames: the frames to come, as (index, image).
      is_stale: whether the bank has to be made, or made anew since a frame made earlier memories be forgotten.
      looks_back: whether a frame can be worked on only when the one before is recorded.
    """

    def __init__(self, predictor: "SAM2VideoPredictor", state: InferenceState, order: Iterable[int], reverse: bool):
        self._predictor = predictor
        self.obj_ids = state.obj_ids
        self.state = state
        self.reverse = reverse
        self.objects = list(state.objects.values())
        self.order = order
        self.frames = state.frames.ahead(order)
        self.is_stale = True
        self.looks_back = predictor.clear_non_cond_mem_around_input or not predictor.memory.follows_frames

    @classmethod
    def begin(
        cls, predictor: "SAM2VideoPredictor", state: InferenceState, start: int | None, count: int | None, reverse: bool
    ) -> "Propagation":
        """A clip's way after its prompts; see `propagate_in_video` for what is given and raised."""
        predictor.propagate_in_video_preflight(state)
        return cls(predictor, state, state.processing_order(start, count, reverse), reverse)

    def active(self, frame_idx: int, rows: int | None = None) -> Bool[np.ndarray, " rows"]:
        """True for objects that have to be looked for on the frame, which those with prompts on it have not.

        Args:
          frame_idx: the frame.
          rows: how many rows there are to be, with False for those beyond the objects.
        """
        wanted = [history.on(frame_idx).prompted is None for history in self.objects]
        return np.array(wanted + [False] * (0 if rows is None else rows - len(wanted)), bool)

    def bank(self, frame_idx: int) -> MemoryBank:
        """The memories when the objects are looked for on a frame; those of a propagation that was there before."""
        self.is_stale, by = False, self._predictor
        found = self.state.memories_before(frame_idx, self.reverse, by.memory, by.memory_dtype)
        return found or assemble_bank(
            self.objects, frame_idx, self.reverse, by.model.config, by.memory_dtype, by.memory
        )

    def record(
        self,
        frame_idx: int,
        active: Bool[np.ndarray, " rows"],
        found: Segmentation,
        memory: Float[Array | np.ndarray, "rows h h cm"] | None,
        snapshots: Sequence[Snapshot | None],
    ) -> None:
        """Keeps what was found of the active objects, the first rows being those of the objects."""
        results = self._predictor._to_host(found, len(self.objects), memory)
        for is_active, history, result, snapshot in zip(active, self.objects, results, snapshots, strict=False):
            if is_active:
                result.snapshot = snapshot
                history.record(frame_idx, result, self.state.history, self.state.reach)

    def leave(self, frame_idx: int) -> Shown:
        """Ends a frame, all of whose results are kept: says what is to be shown of it.

        Only a caller that has the clip's bank alone can say that it goes on from there (`state.going_on`).
        """
        predictor = self._predictor
        self.state.going_on = None
        for history in self.objects:
            record = history.frames.setdefault(frame_idx, FrameRecord())
            record.reverse = self.reverse
            if predictor.clear_non_cond_mem_around_input and record.prompted:
                history.forget_around(frame_idx, predictor.model.config.num_maskmem)
                self.is_stale = True
        self.state.last_frame = frame_idx
        results = [history.on(frame_idx).result for history in self.objects]
        return frame_idx, self.obj_ids, predictor._to_video_size(self.state, results), scores_of(results)
