"""What a video predictor keeps of a clip between calls, in host memory."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from .config import SAM2Config
from .frames import Frames
from .memory_bank import MemoryBank
from .sam2 import ImageFeatures

__all__ = ["InferenceState", "ObjectHistory", "ObjectOnFrame", "assemble_bank", "bucket"]


@dataclasses.dataclass
class ObjectOnFrame:
    """What is known of one object on one frame.

    Attributes:
      mask: logits at stride 4.
      pointer: the object pointer.
      object_score_logit: positive where the object is in the frame.
      memory: memory features; None until they are computed, for prompts that are not final yet.
      refined: refined logits at the model's input size, if there is a refiner; in half precision, as they are many.
    """

    mask: Float[np.ndarray, "m m"]
    pointer: Float[np.ndarray, " c"]
    object_score_logit: float
    memory: Float[np.ndarray, "h h cm"] | None = None
    refined: Float[np.ndarray, "s s"] | None = None

    @property
    def finest(self) -> Float[np.ndarray, "_ _"]:
        """The logits of the highest resolution that there are."""
        return self.mask if self.refined is None else self.refined.astype(np.float32)


@dataclasses.dataclass
class ObjectHistory:
    """All that is known of one object, by frame.

    Attributes:
      points: clicks and boxes, in the model's coordinates, and their labels.
      masks: given masks, 0 or 1, at the model's input size.
      prompted: results on frames with prompts: all later frames attend to them.
      tracked: results on the other frames.
      new_prompted: results of prompts since the last propagation, which will go to `prompted`.
      new_tracked: likewise of corrections, which will go to `tracked`.
      directions: the frames that were propagated to, and whether that was in reverse.
    """

    points: dict[int, tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]]] = dataclasses.field(default_factory=dict)
    masks: dict[int, Float[np.ndarray, "s s"]] = dataclasses.field(default_factory=dict)
    prompted: dict[int, ObjectOnFrame] = dataclasses.field(default_factory=dict)
    tracked: dict[int, ObjectOnFrame] = dataclasses.field(default_factory=dict)
    new_prompted: dict[int, ObjectOnFrame] = dataclasses.field(default_factory=dict)
    new_tracked: dict[int, ObjectOnFrame] = dataclasses.field(default_factory=dict)
    directions: dict[int, bool] = dataclasses.field(default_factory=dict)

    def on(self, frame: int) -> ObjectOnFrame | None:
        """The final result on a frame, if there is one."""
        return self.prompted.get(frame, self.tracked.get(frame))

    def first_points(self, reverse: bool) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]]:
        """The clicks and boxes on the prompted frame that tracking comes to first; none if a mask was given there."""
        nothing = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
        if not self.prompted:
            return nothing
        return self.points.get(max(self.prompted) if reverse else min(self.prompted), nothing)

    def prompt_frames(self) -> list[int]:
        """The frames that have prompts."""
        return sorted({*self.points, *self.masks})

    def record(self, frame: int, result: ObjectOnFrame, limit: int | None) -> None:
        """Stores a tracked frame as the newest one and, beyond `limit` frames, forgets the oldest ones."""
        self.tracked.pop(frame, None)
        self.tracked[frame] = result
        while limit is not None and len(self.tracked) > limit:
            oldest = next(iter(self.tracked))
            del self.tracked[oldest]
            self.directions.pop(oldest, None)


@dataclasses.dataclass
class InferenceState:
    """A clip, its objects and what was found of them; made by `SAM2VideoPredictor.init_state`.

    The names of the official package's dictionary that its users read can be read in the same way here, for example
    `state["obj_ids"]`.

    Attributes:
      frames: where the frames come from.
      num_frames: how many there are; None if an iterator gives them.
      history: how many tracked frames of each object are remembered at most; None for all.
      objects: by object id.
      features: the last encoded frame and its features, on the device.
      last_frame: the last frame that was propagated to.
    """

    frames: Frames
    num_frames: int | None
    history: int | None
    objects: dict[Any, ObjectHistory] = dataclasses.field(default_factory=dict)
    features: tuple[int, ImageFeatures] | None = None
    last_frame: int | None = None

    @property
    def obj_ids(self) -> list[Any]:
        """The ids of the objects, in the order in which results list them."""
        return list(self.objects)

    @property
    def video_height(self) -> int:
        """In pixels."""
        return self.frames.height

    @property
    def video_width(self) -> int:
        """In pixels."""
        return self.frames.width

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def assemble_bank(
    objects: Sequence[ObjectHistory], frame: int, reverse: bool, config: SAM2Config, dtype: DTypeLike
) -> MemoryBank:
    """The memories that `objects` have when they are looked for on `frame`.

    Rows and slots of prompted frames are padded to powers of two with empty ones.
    """
    rows, slots = bucket(len(objects)), bucket(max(len(o.prompted) for o in objects))
    bank = MemoryBank.empty(config, rows, prompted_slots=slots, dtype=dtype)

    def put(name: str, row: int, slot: int, frame: int, value: np.ndarray | None) -> None:
        target = getattr(bank, name)
        target.frames[row, slot] = frame
        target.values[row, slot] = value

    for row, history in enumerate(objects):
        for slot, (at, result) in enumerate(history.prompted.items()):
            put("prompted", row, slot, at, result.memory)
            put("prompted_pointers", row, slot, at, result.pointer)
        for ago in range(1, config.max_obj_ptrs_in_encoder):
            at = frame + ago if reverse else frame - ago
            if at in history.tracked:
                result = history.tracked[at]
                put("recent_pointers", row, at % (config.max_obj_ptrs_in_encoder - 1), at, result.pointer)
                if ago < config.num_maskmem:
                    put("recent", row, at % (config.num_maskmem - 1), at, result.memory)
    return bank


def bucket(count: int) -> int:
    """The power of two that `count` is padded to."""
    return 1 << max(count - 1, 0).bit_length()
