"""What a video predictor keeps of a clip between calls, in host memory."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from ..config import SAM2Config
from ..features import ImageFeatures
from ..image.prompts import bucket
from .frames import Frames
from .memory_bank import MemoryBank

__all__ = ["InferenceState", "ObjectHistory", "ObjectOnFrame", "assemble_bank"]

# What can be read of a state as of the official package's dictionary.
OFFICIAL_NAMES = ("num_frames", "video_height", "video_width", "obj_ids", "obj_id_to_idx", "obj_idx_to_id")


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

    def record(self, frame: int, result: ObjectOnFrame, limit: int | None, reach: int = 0) -> None:
        """Stores a tracked frame as the newest one and, beyond `limit` frames, forgets the oldest ones.

        Frames up to `reach` from a prompt stay and do not count: who starts there in the other direction, after going
        on in this one, looks back on them.
        """
        self.tracked.pop(frame, None)
        self.tracked[frame] = result
        if limit is None:
            return
        others = [f for f in self.tracked if all(abs(f - prompt) > reach for prompt in self.prompted)]
        for oldest in others[: max(len(others) - limit, 0)]:
            del self.tracked[oldest]
            self.directions.pop(oldest, None)

    def forget_around(self, frame: int, reach: int) -> None:
        """Forgets what was tracked on the frame and on up to `reach` frames before and after it."""
        for near in range(frame - reach, frame + reach + 1):
            self.tracked.pop(near, None)


@dataclasses.dataclass
class InferenceState:
    """A clip, its objects and what was found of them; made by `SAM2VideoPredictor.init_state`.

    The names of the official package's dictionary that its users read can be read in the same way here: `num_frames`,
    `video_height`, `video_width`, `obj_ids`, `obj_id_to_idx` and `obj_idx_to_id`, for example `state["obj_ids"]`.

    Attributes:
      frames: where the frames come from.
      num_frames: how many there are; None if an iterator gives them.
      history: how many tracked frames of each object are remembered at most; None for all.
      reach: how near to a prompt they are remembered besides.
      objects: by object id.
      features: the last encoded frame and its features, on the device.
      last_frame: the last frame that was propagated to.
    """

    frames: Frames
    num_frames: int | None
    history: int | None
    reach: int = 0
    objects: dict[Any, ObjectHistory] = dataclasses.field(default_factory=dict)
    features: tuple[int, ImageFeatures] | None = None
    last_frame: int | None = None

    @property
    def obj_ids(self) -> list[Any]:
        """The ids of the objects, in the order in which results list them."""
        return list(self.objects)

    @property
    def obj_id_to_idx(self) -> dict[Any, int]:
        """Where results list each object."""
        return {obj_id: index for index, obj_id in enumerate(self.objects)}

    @property
    def obj_idx_to_id(self) -> dict[int, Any]:
        """The object at each place of results."""
        return dict(enumerate(self.objects))

    @property
    def video_height(self) -> int:
        """In pixels."""
        return self.frames.height

    @property
    def video_width(self) -> int:
        """In pixels."""
        return self.frames.width

    def __contains__(self, name: object) -> bool:
        return name in OFFICIAL_NAMES

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(f"{name!r} is none of the names that can be read, {', '.join(OFFICIAL_NAMES)}")
        return getattr(self, name)

    def check_frame(self, frame_idx: int) -> None:
        """Raises a ValueError if the frame cannot be read, now or at all."""
        indices = self.frames.indices()
        if frame_idx not in indices:
            raise ValueError(
                f"frame_idx must be in [{indices.start}, {indices.stop - 1}], the frames that can be read; "
                f"got {frame_idx}"
            )

    def results_on(self, frame: int, prompted: bool | None = None) -> list[ObjectOnFrame | None]:
        """What is known of each object on a frame, results of new prompts included.

        Args:
          frame: the frame's index.
          prompted: whether new prompts are those that start objects, or those that correct them; by default the former
            if there are any.
        """
        objects = list(self.objects.values())
        if prompted is None:
            prompted = any(frame in o.new_prompted for o in objects)
        news = [o.new_prompted if prompted else o.new_tracked for o in objects]
        return [new.get(frame) or o.on(frame) for new, o in zip(news, objects, strict=True)]

    def processing_order(self, start: int | None, count: int | None, reverse: bool) -> Iterable[int]:
        """The frames that a propagation goes through.

        Args:
          start: the first; by default the earliest with prompts or, of a stream that was propagated, the next one.
          count: how many come after it; by default all.
          reverse: go backwards.

        Raises:
          ValueError: if the start is not there, the count is negative, or a stream is to go backwards.
        """
        if count is not None and count < 0:
            raise ValueError(f"max_frame_num_to_track must not be negative, got {count}")
        is_live = self.num_frames is None
        if is_live and reverse:
            raise ValueError("reverse must be False where frames come from an iterator")
        if start is None:
            start = min(frame for o in self.objects.values() for frame in o.prompted)
            if is_live and self.last_frame is not None:
                start = self.last_frame + 1
        readable = self.frames.indices()
        if not readable.start <= start < readable.stop + is_live:
            raise ValueError(
                f"start_frame_idx must be in [{readable.start}, {readable.stop - 1 + is_live}], got {start}"
            )
        if reverse:
            # Nothing to do from frame 0, whose result is a prompt's; as officially.
            end = max(start - count, 0) if count is not None else 0
            return range(start, end - 1, -1) if start > 0 else ()
        if is_live:
            return itertools.count(start) if count is None else range(start, start + count + 1)
        end = readable.stop - 1 if count is None else min(start + count, readable.stop - 1)
        return range(start, end + 1)


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
