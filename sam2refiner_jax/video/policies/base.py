"""What a memory policy is, and the registry by which trackers find one. Nothing outside this package knows any of them.

A policy says what a tracker keeps of the frames that it tracked: a small frozen dataclass, static where the step is
compiled. What changes from frame to frame is its state, a pytree of arrays in the memory bank. The step asks it

1. `recall`: which of the recent memories the frame attends to, and with which temporal encodings;
2. `choose`: which of the decoder's three masks is the object's;
3. `remember`: which slots take the memory of the frame, and what the state is from then on;

all of it traced, with static shapes, one row an object. It decides on frame numbers, scores and low-resolution masks
and never sees a feature: the bank moves those. The base class is SAM 2's own rule.

What is the same with every policy: all frames with prompts are attended to, as in SAM 2. Object pointers are those of
SAM 2's last 15 frames, as the papers' rules are about memory features. Clicks that correct a tracked frame get the mask
that SAM 2 gives for clicks; the frame then counts as tracked with a mask of predicted IoU 1. Rows that are not active,
such as objects on frames with a prompt of theirs, keep their state.

Where tracking goes on behind its last frame, and nothing was changed meanwhile, so does the bank, all paths of it.
Where it starts again otherwise, an object goes on with the state that its frame before had, if that was tracked in the
same direction or is a prompt behind such a frame; it is kept with the frame's result. Everywhere else it begins with
`initial_state` and no recent memories. That is so after the first prompts, in the other direction, and behind frames
that were cleared or forgotten. Only `official` has no need of it, its memories being those of the frames in reach.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...config import SAM2Config
from ..slots import EMPTY, ObjectFrames

__all__ = [
    "MEMORY_POLICIES",
    "Candidates",
    "Choice",
    "Found",
    "MemoryPolicy",
    "Official",
    "PromptFacts",
    "Recalled",
    "Remembered",
    "Situation",
    "memory_policy",
    "newest_first",
    "only",
    "register_memory_policy",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptFacts:
    """What the masks on frames with prompts are like.

    Attributes:
      boxes: centre x and y, width and height in pixels of the low-resolution mask (`boxes_of`); zeros of an empty one.
      object_score_logits: positive where the object is in the frame.
    """

    boxes: Float[Array | np.ndarray, "rows prompted 4"]
    object_score_logits: Float[Array | np.ndarray, "rows prompted"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Situation:
    """Where each row is, and what its bank holds, without the features.

    Attributes:
      frames: where the object is looked for.
      prompted: the frames of the slots of prompted frames, or EMPTY.
      prompts: what those are like.
      recent: the frames of the slots of recent memories, or EMPTY; there are as many as SAM 2 has.
      state: the policy's.
    """

    frames: ObjectFrames
    prompted: Int[Array | np.ndarray, "rows prompted"]
    prompts: PromptFacts
    recent: Int[Array | np.ndarray, "rows slots"]
    state: Any

    @property
    def ages(self) -> Int[Array, "rows slots"]:
        """How many frames ago each recent memory is from, in the direction of tracking; 2**29 for an empty slot."""
        return jnp.where(jnp.asarray(self.recent) == EMPTY, -EMPTY, self.frames.since(self.recent))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """What the decoder found.

    Attributes:
      masks: low-resolution logits of all masks that may be the object's; three on a tracked frame.
      ious: the predicted IoU of each.
      object_score_logits: positive where the object is in the frame.
    """

    masks: Float[Array | np.ndarray, "rows k m m"]
    ious: Float[Array | np.ndarray, "rows k"]
    object_score_logits: Float[Array | np.ndarray, " rows"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choice:
    """What `MemoryPolicy.choose` says.

    Attributes:
      mask: which candidate.
      path: of a policy with several paths, which of the object's paths each row goes on from, 0 the first; the
        candidate, the memories and the state are that path's. None where each row goes on from itself.
    """

    mask: Int[Array, " rows"]
    path: Int[Array, " rows"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Found:
    """The candidates of each row, or of the path that it goes on from, and which of them was chosen."""

    candidates: Candidates
    chosen: Int[Array | np.ndarray, " rows"]

    def _of_chosen(self, values: Array | np.ndarray) -> Array:
        return jnp.asarray(values)[jnp.arange(self.chosen.shape[0]), self.chosen]

    @property
    def masks(self) -> Float[Array, "rows m m"]:
        """Logits of the chosen mask."""
        return self._of_chosen(self.candidates.masks)

    @property
    def ious(self) -> Float[Array, " rows"]:
        """The predicted IoU of the chosen mask."""
        return self._of_chosen(self.candidates.ious)

    @property
    def object_score_logits(self) -> Float[Array, " rows"]:
        """Positive where the object is in the frame."""
        return jnp.asarray(self.candidates.object_score_logits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recalled:
    """What `MemoryPolicy.recall` says.

    Attributes:
      exist: False for slots to ignore.
      encoding: which temporal encoding: 0 is for the newest memory, and so on; the last one, as many as there are
        slots, is that of prompted frames, which tells no time.
      weights: what the keys of prompted and recent memories are multiplied with; None for 1.
    """

    exist: Bool[Array, "rows slots"]
    encoding: Int[Array, "rows slots"]
    weights: Float[Array, "rows maps"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Remembered:
    """What `MemoryPolicy.remember` says: the slots that take the frame's memory, and the state after the frame."""

    slots: Bool[Array, "rows slots"]
    state: Any


@dataclasses.dataclass(frozen=True)
class MemoryPolicy:
    """Base class: SAM 2's rule. Subclasses, frozen dataclasses too, say what they do differently.

    Attributes:
      kind: the registered name.
      follows_frames: whether memories are those of the frames in reach and nothing else, so that they are known
        wherever tracking starts. Only of `official`.
    """

    kind: ClassVar[str]
    follows_frames: ClassVar[bool] = False

    @property
    def paths(self) -> int:
        """Rows of an object, beside each other, whose first is the result. Each has memories and a state of its own."""
        return 1

    def initial_state(self, config: SAM2Config, rows: int) -> Any:
        """The state before any frame: a pytree of arrays whose first axis is the rows'; () for none."""
        return ()

    def recall(self, now: Situation) -> Recalled:
        """What to attend to: here, the memories of as many frames before as there are slots."""
        age, reach = now.frames.since(now.recent), now.recent.shape[1]
        return Recalled((age >= 1) & (age <= reach), jnp.clip(age - 1, 0, reach - 1))

    def choose(self, now: Situation, candidates: Candidates) -> Choice:
        """Which mask is the object's: here, that of the highest predicted IoU."""
        return Choice(jnp.argmax(candidates.ious, axis=1))

    def remember(self, now: Situation, found: Found) -> Remembered:
        """What to keep of a frame: here, every one, in place of the oldest."""
        count = now.recent.shape[1]
        return Remembered((now.frames.frame % count)[:, None] == jnp.arange(count), now.state)


def newest_first(ages: Int[Array, "rows slots"], exist: Bool[Array, "rows slots"]) -> Int[Array, "rows slots"]:
    """The place of each memory among those that exist, 0 the newest, by which the papers' memories are encoded."""
    return jnp.sum((ages[:, None] < ages[:, :, None]) & exist[:, None], axis=2)


def only(slot: Int[Array, " rows"], slots: int) -> Bool[Array, "rows {slots}"]:
    """True for one slot of each row."""
    return slot[:, None] == jnp.arange(slots)


MEMORY_POLICIES: dict[str, type[MemoryPolicy]] = {}
P = TypeVar("P", bound=type[MemoryPolicy])


def register_memory_policy(kind: str) -> Callable[[P], P]:
    """Class decorator that makes a policy known as `SAM2VideoPredictor(model, memory=kind)`.

    Raises:
      ValueError: if there is another one of that name.
    """

    def register(cls: P) -> P:
        if kind in MEMORY_POLICIES:
            raise ValueError(f"a memory policy named {kind!r} exists already")
        cls.kind = kind
        MEMORY_POLICIES[kind] = cls
        return cls

    return register


def memory_policy(memory: str | MemoryPolicy) -> MemoryPolicy:
    """A policy by its registered name, with its defaults, or as it is given.

    Raises:
      ValueError: if no such policy is registered.
    """
    if isinstance(memory, MemoryPolicy):
        return memory
    if memory not in MEMORY_POLICIES:
        raise ValueError(f"memory must be one of {', '.join(MEMORY_POLICIES)}, or a MemoryPolicy; got {memory!r}")
    return MEMORY_POLICIES[memory]()


@register_memory_policy("official")
@dataclasses.dataclass(frozen=True)
class Official(MemoryPolicy):
    """SAM 2 as published: the mask of the highest predicted IoU, and the memories of the last six frames."""

    follows_frames: ClassVar[bool] = True
