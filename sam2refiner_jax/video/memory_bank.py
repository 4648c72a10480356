"""What a tracker remembers of earlier frames, as a pytree of static shape."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ..config import SAM2Config
from ..nn.memory_attention import Memory
from ..nn.positional import sine_encoding_1d, sine_encoding_2d
from ..sam2 import SAM2

__all__ = ["EMPTY", "MemoryBank", "ObjectFrames", "Slots"]

# The frame of a slot that holds nothing. So far away that no test of distance mistakes it for a real one.
EMPTY = -(2**29)


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MemoryBank:
    """The memories of a batch of objects.

    Attributes:
      prompted: memory features of the frames with prompts. All are attended to, past or future, so the number of
        slots is a bucket that must be large enough.
      prompted_pointers: their object pointers.
      recent: memory features of the last `num_maskmem - 1` tracked frames.
      recent_pointers: object pointers of the last `max_obj_ptrs_in_encoder - 1` tracked frames.
    """

    prompted: Slots
    prompted_pointers: Slots
    recent: Slots
    recent_pointers: Slots

    @classmethod
    def empty(
        cls, config: SAM2Config, objects: int, *, prompted_slots: int = 1, dtype: DTypeLike = jnp.bfloat16
    ) -> "MemoryBank":
        """A bank without memories, in host memory.

        Args:
          config: the model's.
          objects: rows.
          prompted_slots: frames with prompts that it can hold.
          dtype: of the memory features. The official predictor rounds them to bfloat16 whatever the model computes in.
        """
        side = config.embedding_size
        feature, pointer = (side, side, config.memory_dim), (config.hidden_dim,)
        return cls(
            Slots.empty(objects, prompted_slots, feature, dtype),
            Slots.empty(objects, prompted_slots, pointer, jnp.float32),
            Slots.empty(objects, config.num_maskmem - 1, feature, dtype),
            Slots.empty(objects, config.max_obj_ptrs_in_encoder - 1, pointer, jnp.float32),
        )

    def remember(
        self,
        frames: Int[Array | np.ndarray, " objects"],
        features: Float[Array | np.ndarray, "objects h h cm"],
        pointers: Float[Array | np.ndarray, "objects c"],
        where: Bool[Array | np.ndarray, " objects"],
    ) -> "MemoryBank":
        """The bank after tracking a frame, for the objects for which `where` is True."""
        return dataclasses.replace(
            self,
            recent=self.recent.write(frames, features, where),
            recent_pointers=self.recent_pointers.write(frames, pointers, where),
        )

    def recall(self, model: SAM2, frames: ObjectFrames) -> Memory:
        """What there is to attend to in the given frames (`sam2_base._prepare_memory_conditioned_features`)."""
        return Memory(*self._maps(model, frames), *self._pointers(model, frames))

    def _maps(self, model: SAM2, frames: ObjectFrames):
        config = model.config
        side, dim, reach = config.embedding_size, config.memory_dim, config.num_maskmem - 1
        maps = jnp.concatenate([self.prompted.values, self.recent.values], axis=1).astype(model.dtype)
        age = frames.since(self.recent.frames)
        exist = jnp.concatenate([self.prompted.frames != EMPTY, (age >= 1) & (age <= reach)], axis=1)
        # The last encoding is for prompted frames, however far away; the others are for 1, 2... frames ago.
        which = jnp.concatenate([jnp.full(self.prompted.frames.shape, reach), jnp.clip(age - 1, 0, reach - 1)], axis=1)
        times = model.maskmem_tpos_enc[...][:, 0, 0][which]
        places = sine_encoding_2d(side, side, dim).reshape(side * side, dim)
        encodings = (times[:, :, None] + places).astype(model.dtype)
        return maps.reshape(encodings.shape), encodings, exist

    def _pointers(self, model: SAM2, frames: ObjectFrames):
        config = model.config
        reach = jnp.minimum(frames.num_frames, config.max_obj_ptrs_in_encoder)[:, None]
        pointers = jnp.concatenate([self.prompted_pointers.values, self.recent_pointers.values], axis=1)
        prompted_age = frames.since(self.prompted_pointers.frames)
        recent_age = frames.since(self.recent_pointers.frames)
        age = jnp.concatenate([prompted_age, recent_age], axis=1)
        exist = jnp.concatenate(
            [
                (self.prompted_pointers.frames != EMPTY) & (prompted_age >= 0),
                (recent_age >= 1) & (recent_age < reach),
            ],
            axis=1,
        )
        encodings = jnp.zeros((*age.shape, config.memory_dim))
        if config.obj_ptr_temporal_encoding:
            # Ages of missing pointers are huge; a sine of them would be slow and mean nothing.
            relative = jnp.where(exist, age, 0) / jnp.maximum(reach - 1, 1)
            encodings = model.obj_ptr_tpos_proj(sine_encoding_1d(relative, config.hidden_dim))
        objects, count, dim = pointers.shape
        pieces = dim // config.memory_dim
        return (
            pointers.reshape(objects, count * pieces, -1).astype(model.dtype),
            jnp.repeat(encodings.astype(model.dtype), pieces, axis=1),
            jnp.repeat(exist, pieces, axis=1),
        )
