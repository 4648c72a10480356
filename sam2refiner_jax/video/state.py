"""What a video predictor keeps of a clip between calls, in host memory and, of results long past, in a file."""

import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from ..config import SAM2Config
from ..features import ImageFeatures
from ..image.conversation import Conversation
from ..image.prompts import bucket
from .array_file import ArrayFile, StoredArrays
from .exemplars import Exemplar
from .frames import Frames
from .memory_bank import MemoryBank
from .policies import MemoryPolicy, Official
from .policies.shapes import box_of
from .snapshots import Snapshot

__all__ = [
    "FrameRecord",
    "FrameScores",
    "GoingOn",
    "InferenceState",
    "ObjectHistory",
    "ObjectOnFrame",
    "assemble_bank",
    "scores_of",
]

# What can be read of a state as of the official package's dictionary.
OFFICIAL_NAMES = ("num_frames", "video_height", "video_width", "obj_ids", "obj_id_to_idx", "obj_idx_to_id")


class FrameScores(NamedTuple):
    """How sure the model is of each object on a frame; NaN where nothing is known.

    Attributes:
      object_score_logits: positive where the object is in the frame; 10 or -10 for given masks.
      predicted_iou: the predicted IoU of the mask with the truth, in [0, 1]; with a refiner, that of the coarse mask.
        NaN for given masks. Where the object is not in the frame it is of a mask that is not shown.
    """

    object_score_logits: Float[np.ndarray, " objects"]
    predicted_iou: Float[np.ndarray, " objects"]


@dataclasses.dataclass
class ObjectOnFrame:
    """What is known of one object on one frame.

    Its arrays may lie in a file. Each is then read whenever it is asked for, and not kept.

    Attributes:
      mask: logits at stride 4.
      pointer: the object pointer.
      object_score_logit: positive where the object is in the frame.
      predicted_iou: the predicted IoU of the mask, before a refiner made it finer; NaN for given masks.
      memory: memory features; None until they are computed, for prompts that are not final yet.
      refined: refined logits at the model's input size, if there is a refiner; in half precision, as they are many.
      snapshot: of a tracked frame, what the memory policy knew after it, if it has to be told.
      stored: the arrays that lie in a file.
    """

    mask: Float[np.ndarray, "m m"]
    pointer: Float[np.ndarray, " c"]
    object_score_logit: float
    predicted_iou: float
    memory: Float[np.ndarray, "h h cm"] | None
    refined: Float[np.ndarray, "s s"] | None
    snapshot: Snapshot | None = None
    stored: StoredArrays | None = dataclasses.field(default=None, init=False, repr=False)

    def move_to(self, file: ArrayFile) -> None:
        """Keeps the arrays in a file from now on.

        Raises:
          OSError: if they cannot be written; then they stay where they are.
        """
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        self.stored = file.write(arrays)
        for name in arrays:
            delattr(self, name)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> np.ndarray:
            """An array that is not here (Python asks for no others)."""
            stored = vars(self).get("stored")
            if stored is None or name not in stored:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return stored.read(name)

    @property
    def finest(self) -> Float[np.ndarray, "_ _"]:
        """The logits of the highest resolution that there are."""
        refined = self.refined  # once, as it may be read from a file
        return self.mask if refined is None else refined.astype(np.float32)


def scores_of(results: Sequence[ObjectOnFrame | None]) -> FrameScores:
    """The scores of results, one an object."""
    pairs = [(np.nan, np.nan) if r is None else (r.object_score_logit, r.predicted_iou) for r in results]
    logits, ious = np.array(pairs, np.float32).reshape(-1, 2).T.copy()
    return FrameScores(logits, ious)


@dataclasses.dataclass
class FrameRecord:
    """Prompts for one object on one frame, and what was found there.

    Attributes:
      points: clicks and boxes, in the model's coordinates, and their labels.
      mask: a given mask, 0 or 1, at the model's input size.
      prompted: the result of prompts: all later frames attend to it.
      tracked: the result of tracking, where no prompts are, or of correcting it.
      new_prompted: the result of prompts since the last propagation, which will be `prompted`.
      new_tracked: likewise of a correction, which will be `tracked`.
      reverse: whether it was in reverse that propagation came here; None if it never did.
      conversation: what a refiner carries from one set of clicks on the frame to the next.
    """

    points: tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]] | None = None
    mask: Float[np.ndarray, "s s"] | None = None
    prompted: ObjectOnFrame | None = None
    tracked: ObjectOnFrame | None = None
    new_prompted: ObjectOnFrame | None = None
    new_tracked: ObjectOnFrame | None = None
    reverse: bool | None = None
    conversation: Conversation | None = None

    @property
    def result(self) -> ObjectOnFrame | None:
        """The final result, if there is one."""
        return self.prompted or self.tracked


@dataclasses.dataclass
class ObjectHistory:
    """All that is known of one object.

    Attributes:
      frames: by frame; results of a kind are in the order in which they came to be.
      in_memory: the frames whose tracked result may be in memory, the newest last; other tracked results are in a file.
      exemplars: what is known of it from elsewhere.
      num_frames: how many the clip has; None if it is not known. Only exemplars ask.
    """

    frames: dict[int, FrameRecord] = dataclasses.field(default_factory=dict)
    in_memory: list[int] = dataclasses.field(default_factory=list)
    exemplars: list[Exemplar] = dataclasses.field(default_factory=list)
    num_frames: int | None = None

    def beside(self, reverse: bool) -> int:
        """The frame that exemplars stand on: the one before the first, or behind the last when going backwards."""
        return self.num_frames if reverse and self.num_frames is not None else -1

    def on(self, frame: int) -> FrameRecord:
        """What is known of a frame; a new record, which is not kept, if that is nothing."""
        return self.frames.get(frame) or FrameRecord()

    @property
    def prompted(self) -> dict[int, ObjectOnFrame]:
        """Results on frames with prompts."""
        return {frame: record.prompted for frame, record in self.frames.items() if record.prompted is not None}

    @property
    def is_known(self) -> bool:
        """Whether there is anything to track it from: prompts on a frame, or exemplars."""
        return bool(self.exemplars) or any(record.prompted is not None for record in self.frames.values())

    @property
    def tracked(self) -> dict[int, ObjectOnFrame]:
        """Results on the other frames, the newest last."""
        return {frame: record.tracked for frame, record in self.frames.items() if record.tracked is not None}

    def prompt_frames(self) -> list[int]:
        """The frames that have prompts."""
        return sorted(f for f, record in self.frames.items() if record.points is not None or record.mask is not None)

    def new_frames(self) -> set[int]:
        """The frames with prompts since the last propagation."""
        return {f for f, record in self.frames.items() if record.new_prompted or record.new_tracked}

    def first_points(self, reverse: bool) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]]:
        """The clicks and boxes on the prompted frame that tracking comes to first; none if a mask was given there.

        Exemplars, which are of masks, come before all frames.
        """
        prompted = {} if self.exemplars else self.prompted
        points = self.frames[max(prompted) if reverse else min(prompted)].points if prompted else None
        return (np.zeros((0, 2), np.float32), np.zeros(0, np.int32)) if points is None else points

    def keep(self, frame: int, record: FrameRecord, result: ObjectOnFrame, is_prompt: bool) -> None:
        """Stores the result of a record's new prompts, or of a correction, until the next propagation."""
        if is_prompt:
            record.new_prompted = result
        else:
            record.new_tracked = result
        self.frames.setdefault(frame, record)

    def accept(self, frame: int) -> None:
        """Makes the results of the frame's new prompts final; those of prompts hide those of corrections."""
        record = self.frames[frame]
        if record.prompted is None and (record.new_prompted is not None or record.tracked is None):
            self.frames[frame] = self.frames.pop(frame)  # the newest
        record.prompted = record.new_prompted or record.prompted
        if record.new_tracked is not None:
            record.tracked = record.new_tracked
            self.in_memory.append(frame)
        record.new_prompted = record.new_tracked = None

    def record(self, frame: int, result: ObjectOnFrame, limit: int | None, reach: int = 0) -> None:
        """Stores a tracked frame as the newest one and, beyond `limit` frames, forgets the oldest ones.

        Frames up to `reach` from a prompt stay and do not count: who starts there in the other direction, after going
        on in this one, looks back on them. Nor are those forgotten that the newest one's snapshot remembers.
        """
        record = self.frames.pop(frame, FrameRecord())
        record.tracked = result
        self.frames[frame] = record
        self.in_memory.append(frame)
        if limit is None:
            return
        held = result.snapshot.frames if result.snapshot else set()
        for oldest in self._beyond(limit, [f for f in self.tracked if f not in held], reach):
            forgotten = self.frames[oldest]
            forgotten.tracked = forgotten.reverse = None
            if all(value is None for value in vars(forgotten).values()):
                del self.frames[oldest]

    def store_old(self, file: ArrayFile, recent: int, reach: int = 0) -> None:
        """Moves tracked results to a file, but for those that `record` would remember with `recent` for its limit.

        Raises:
          OSError: if the file cannot be written; then the rest stays in memory.
        """
        results = {f: self.on(f).tracked for f in reversed(self.in_memory)}
        here = {f: r for f, r in reversed(results.items()) if r is not None and r.stored is None}
        self.in_memory = list(here)
        for old in self._beyond(recent, self.in_memory, reach):
            here[old].move_to(file)

    def _beyond(self, limit: int, frames: list[int], reach: int) -> list[int]:
        """All but the last `limit` of the frames that have no prompt within `reach`."""
        found = self.frames.get

        def has_prompt(frame: int) -> bool:
            record = found(frame)
            return record is not None and record.prompted is not None

        others = [f for f in frames if not any(map(has_prompt, range(f - reach, f + reach + 1)))]
        return others[: max(len(others) - limit, 0)]

    def snapshot_before(self, frame: int, reverse: bool) -> Snapshot | None:
        """What the memory policy knew when tracking in this direction was about to come to a frame, if it did."""
        ago = 1 if reverse else -1
        before = frame + ago
        while self.on(before).prompted is not None:
            before += ago
        record = self.on(before)
        return record.tracked.snapshot if record.tracked is not None and record.reverse == reverse else None

    def forget_around(self, frame: int, reach: int) -> None:
        """Forgets what was tracked on the frame and on up to `reach` frames before and after it."""
        for near in range(frame - reach, frame + reach + 1):
            self.on(near).tracked = None


@dataclasses.dataclass
class GoingOn:
    """Where a propagation is, so that it can go on from there with the memories that it has, of all paths of a policy.

    Attributes:
      bank: the memories after the frame, on the device or in host memory.
      frame: the last frame that was propagated to.
      reverse: in which direction.
      obj_ids: of which objects.
    """

    bank: MemoryBank
    frame: int
    reverse: bool
    obj_ids: list[Any]


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
      recent: how many of them are in memory, besides those near a prompt; the others are in `file`. None for all.
      objects: by object id.
      features: the last encoded frame and its features, on the device.
      last_frame: the last frame that was propagated to.
      file: where older results are.
      going_on: the memories with which a propagation goes on behind its last frame; None where prompts, objects or
        exemplars changed since, so that they are put together from the results.
      notes: the caller's own, anything that JSON can hold; saved and loaded with the state.
    """

    frames: Frames
    num_frames: int | None
    history: int | None
    reach: int = 0
    recent: int | None = None
    objects: dict[Any, ObjectHistory] = dataclasses.field(default_factory=dict)
    features: tuple[int, ImageFeatures] | None = None
    last_frame: int | None = None
    file: ArrayFile = dataclasses.field(default_factory=ArrayFile)
    going_on: GoingOn | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def exemplars(self) -> dict[Any, list[Exemplar]]:
        """The exemplars of each object that has some."""
        return {obj_id: list(history.exemplars) for obj_id, history in self.objects.items() if history.exemplars}

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

    def history_of(self, obj_id: Hashable) -> ObjectHistory:
        """What is known of an object; a new one is added."""
        return self.objects.setdefault(obj_id, ObjectHistory(num_frames=self.num_frames))

    def memories_before(self, frame: int, reverse: bool, policy: MemoryPolicy, dtype: DTypeLike) -> MemoryBank | None:
        """A copy, on the device, of the memories with which a propagation goes on to a frame; None if none does."""
        going_on = self.going_on
        if going_on is None or (going_on.frame, going_on.reverse) != (frame + (1 if reverse else -1), reverse):
            return None
        bank = going_on.bank
        if going_on.obj_ids != self.obj_ids or bank.policy != policy or bank.recent.values.dtype != dtype:
            return None
        return jax.tree.map(jnp.array, bank)

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
        records = [o.on(frame) for o in self.objects.values()]
        if prompted is None:
            prompted = any(record.new_prompted for record in records)
        return [(record.new_prompted if prompted else record.new_tracked) or record.result for record in records]

    def scores_on(self, frame: int) -> FrameScores:
        """How sure the model is of each object on a frame, results of new prompts included."""
        return scores_of(self.results_on(frame))

    def store_old(self) -> None:
        """Moves the results that the next frames do not look back on from memory to the file.

        Raises:
          OSError: if it cannot be written, naming the folder; what was not moved stays in memory.
        """
        if self.recent is None:
            return
        for history in self.objects.values():
            history.store_old(self.file, self.recent, self.reach)

    def processing_order(self, start: int | None, count: int | None, reverse: bool) -> Iterable[int]:
        """The frames that a propagation goes through.

        Args:
          start: the first; by default the earliest with prompts or, of a stream that was propagated, the next one.
            Where objects have exemplars, the clip's first, or its last in reverse.
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
            if self.exemplars:
                start = self.num_frames - 1 if reverse and self.num_frames is not None else 0
            else:
                start = min(frame for o in self.objects.values() for frame in o.prompted)
            if is_live and self.last_frame is not None:
                start = self.last_frame + 1
        readable = self.frames.indices()
        if not readable.start <= start < readable.stop + is_live:
            raise ValueError(
                f"start_frame_idx must be in [{readable.start}, {readable.stop - 1 + is_live}], got {start}"
            )
        if reverse:
            # Nothing to do from frame 0 whose result is a prompt's, as officially, unless it is what is left to do.
            end = max(start - count, 0) if count is not None else 0
            goes_on = self.going_on is not None and self.going_on.reverse and self.going_on.frame == 1
            return range(start, end - 1, -1) if start > 0 or goes_on or self.exemplars else ()
        if is_live:
            return itertools.count(start) if count is None else range(start, start + count + 1)
        end = readable.stop - 1 if count is None else min(start + count, readable.stop - 1)
        return range(start, end + 1)


def assemble_bank(
    objects: Sequence[ObjectHistory],
    frame: int,
    reverse: bool,
    config: SAM2Config,
    dtype: DTypeLike,
    policy: MemoryPolicy | None = None,
) -> MemoryBank:
    """The memories that `objects` have when they are looked for on `frame`.

    Rows and slots of prompted frames are padded to powers of two with empty ones. With a policy other than SAM 2's, the
    default, recent memories and state are those of the snapshot before the frame, or those to start with. Exemplars are
    in slots of prompted frames, as of the frame beside the clip; a policy is told of no box of theirs, which would be
    one of another picture.
    """
    policy = Official() if policy is None else policy
    prompted = [history.prompted for history in objects]
    counts = [len(results) + len(history.exemplars) for results, history in zip(prompted, objects, strict=True)]
    rows, slots = bucket(len(objects)), bucket(max(counts))
    bank = MemoryBank.empty(config, rows, prompted_slots=slots, dtype=dtype, policy=policy)
    assert bank.prompts is not None

    def put(name: str, paths: slice, slot: int, frame: int, value: np.ndarray | None) -> None:
        target = getattr(bank, name)
        target.frames[paths, slot] = frame
        target.values[paths, slot] = value

    for index, history in enumerate(objects):
        first = index * policy.paths
        paths = slice(first, first + policy.paths)
        for slot, (at, result) in enumerate(prompted[index].items()):
            put("prompted", paths, slot, at, result.memory)
            put("prompted_pointers", paths, slot, at, result.pointer)
            bank.prompts.boxes[paths, slot] = box_of(result.mask > 0)
            bank.prompts.object_score_logits[paths, slot] = result.object_score_logit
        for slot, exemplar in enumerate(history.exemplars, start=len(prompted[index])):
            put("prompted", paths, slot, history.beside(reverse), exemplar.memory)
            put("prompted_pointers", paths, slot, history.beside(reverse), exemplar.pointer)
            bank.prompts.object_score_logits[paths, slot] = exemplar.object_score_logit
        for ago in range(1, config.max_obj_ptrs_in_encoder):
            at = frame + ago if reverse else frame - ago
            tracked = history.on(at).tracked
            if tracked is not None:
                put("recent_pointers", paths, at % (config.max_obj_ptrs_in_encoder - 1), at, tracked.pointer)
                if policy.follows_frames and ago < config.num_maskmem:
                    put("recent", paths, at % (config.num_maskmem - 1), at, tracked.memory)
        snapshot = history.snapshot_before(frame, reverse)
        if snapshot is not None:
            # Of the others, which may lie in a file, nothing is read.
            results = {at: history.on(at).tracked for at in snapshot.frames}
            memories = {at: result.memory for at, result in results.items() if result is not None}
            snapshot.restore(bank, first, memories)
    return bank
