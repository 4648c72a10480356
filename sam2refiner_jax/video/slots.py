"""Values by frame for a batch of objects, and where each object is: what memories are filed by."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

__all__ = ["EMPTY", "UNKNOWN_LENGTH", "ObjectFrames", "Slots"]

# The frame of a slot that holds nothing. So far away that no test of distance mistakes it for a real one.
EMPTY = -(2**29)
# The length of a clip whose end is not known yet: any that is too long to matter.
UNKNOWN_LENGTH = 2**29


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ObjectFrames:
    """Where a batch of objects is: which frame of which clip each is looked for in.

    All values are traced, so that no frame number and no clip length compiles anything.

    Attributes:
      image: which of the batch's images shows the object.
      frame: that image's index in its clip.
      num_frames: the clip's number of frames, which limits how far back object pointers reach in short clips.
      reverse: whether the clip is tracked backwards.
    """

    image: Int[Array | np.ndarray, " objects"]
    frame: Int[Array | np.ndarray, " objects"]
    num_frames: Int[Array | np.ndarray, " objects"]
    reverse: Bool[Array | np.ndarray, " objects"]

    def next(self) -> "ObjectFrames":
        """One frame on, in the direction of tracking."""
        return dataclasses.replace(self, frame=self.frame + jnp.where(self.reverse, -1, 1))

    def since(self, frames: Int[Array | np.ndarray, "objects slots"]) -> Int[Array, "objects slots"]:
        """How many frames ago, in the direction of tracking, each of `frames` was; negative for those to come."""
        return (jnp.asarray(self.frame)[:, None] - frames) * jnp.where(self.reverse, -1, 1)[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """Values of some frames for a batch of objects; which frames may differ from object to object.

    Attributes:
      frames: the frame that each slot's value is of, or EMPTY.
      values: one value a slot.
    """

    frames: Int[Array | np.ndarray, "objects slots"]
    values: Float[Array | np.ndarray, "objects slots ..."]

    @classmethod
    def empty(cls, objects: int, slots: int, value_shape: tuple[int, ...], dtype: DTypeLike) -> "Slots":
        return cls(np.full((objects, slots), EMPTY, np.int32), np.zeros((objects, slots, *value_shape), dtype))

    def write(
        self,
        frames: Int[Array | np.ndarray, " objects"],
        values: Float[Array | np.ndarray, "objects ..."],
        where: Bool[Array | np.ndarray, " objects"],
    ) -> "Slots":
        """Puts each object's value in the slot of its frame, over the oldest one; nothing where `where` is False."""
        slot = frames % self.frames.shape[1]  # any run of frames as long as the slots has a slot for each
        rows = jnp.arange(frames.shape[0])
        kept = where.reshape(-1, *[1] * (values.ndim - 1))
        values = jnp.where(kept, values.astype(self.values.dtype), self.values[rows, slot])
        return Slots(
            jnp.asarray(self.frames).at[rows, slot].set(jnp.where(where, frames, self.frames[rows, slot])),
            jnp.asarray(self.values).at[rows, slot].set(values),
        )

    def put(
        self,
        frames: Int[Array | np.ndarray, " objects"],
        values: Float[Array | np.ndarray, "objects ..."],
        where: Bool[Array | np.ndarray, "objects slots"],
    ) -> "Slots":
        """Puts each object's value in the slots where `where` is True, over what they hold."""
        there = where.reshape(*where.shape, *[1] * (values.ndim - 1))
        return Slots(
            jnp.where(where, frames[:, None], self.frames),
            jnp.where(there, values.astype(self.values.dtype)[:, None], self.values),
        )
