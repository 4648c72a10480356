"""What a tracker remembers of earlier frames, as a pytree of static shape."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ..config import SAM2Config
from ..nn.memory_attention import Memory
from ..nn.positional import sine_encoding_1d, sine_encoding_2d
from ..sam2 import SAM2
from .policies import Found, MemoryPolicy, Official, PromptFacts, Recalled, Situation
from .slots import EMPTY, ObjectFrames, Slots

__all__ = ["EMPTY", "MemoryBank", "ObjectFrames", "Slots"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MemoryBank:
    """The memories of a batch of objects; of a policy with several paths, of every path of each, side by side.

    Attributes:
      prompted: memory features of the frames with prompts. All are attended to, past or future, so the number of
        slots is a bucket that must be large enough.
      prompted_pointers: their object pointers.
      recent: memory features of the `num_maskmem - 1` tracked frames that the policy keeps.
      recent_pointers: object pointers of the last `max_obj_ptrs_in_encoder - 1` tracked frames.
      prompts: what the masks on the frames with prompts are like; None is for policies that do not ask.
      state: the policy's.
      policy: which tracked frames are kept and attended to (`policies/base.py`).
    """

    prompted: Slots
    prompted_pointers: Slots
    recent: Slots
    recent_pointers: Slots
    prompts: PromptFacts | None = None
    state: Any = ()
    policy: MemoryPolicy = dataclasses.field(default=Official(), metadata={"static": True})

    @classmethod
    def empty(
        cls,
        config: SAM2Config,
        objects: int,
        *,
        prompted_slots: int = 1,
        dtype: DTypeLike = jnp.bfloat16,
        policy: MemoryPolicy | None = None,
    ) -> "MemoryBank":
        """A bank without memories, in host memory.

        Args:
          config: the model's.
          objects: how many; there is a row for each path of each.
          prompted_slots: frames with prompts that it can hold.
          dtype: of the memory features. The official predictor rounds them to bfloat16 whatever the model computes in.
          policy: SAM 2's own unless given.
        """
        policy = Official() if policy is None else policy
        rows, side = objects * policy.paths, config.embedding_size
        feature, pointer = (side, side, config.memory_dim), (config.hidden_dim,)
        return cls(
            Slots.empty(rows, prompted_slots, feature, dtype),
            Slots.empty(rows, prompted_slots, pointer, jnp.float32),
            Slots.empty(rows, config.num_maskmem - 1, feature, dtype),
            Slots.empty(rows, config.max_obj_ptrs_in_encoder - 1, pointer, jnp.float32),
            PromptFacts(np.zeros((rows, prompted_slots, 4), np.float32), np.zeros((rows, prompted_slots), np.float32)),
            jax.tree.map(np.array, policy.initial_state(config, rows)),
            policy,
        )

    def situation(self, frames: ObjectFrames) -> Situation:
        """What the policy decides on."""
        shape = self.prompted.frames.shape
        prompts = PromptFacts(jnp.zeros((*shape, 4)), jnp.zeros(shape)) if self.prompts is None else self.prompts
        return Situation(frames, self.prompted.frames, prompts, self.recent.frames, self.state)

    def going_on_from(self, rows: Int[Array, " rows"]) -> "MemoryBank":
        """The bank whose row i remembers what row `rows[i]`, of the same object, did."""
        recent, pointers, state = jax.tree.map(lambda x: x[rows], (self.recent, self.recent_pointers, self.state))
        return dataclasses.replace(self, recent=recent, recent_pointers=pointers, state=state)

    def first_paths(self) -> "MemoryBank":
        """The bank of each object's first path alone, which can be attended to but not tracked with."""
        return jax.tree.map(lambda x: x[:: self.policy.paths], self)

    def remember(
        self,
        frames: ObjectFrames,
        features: Float[Array | np.ndarray, "rows h h cm"],
        pointers: Float[Array | np.ndarray, "rows c"],
        found: Found,
        where: Bool[Array | np.ndarray, " rows"],
    ) -> "MemoryBank":
        """The bank after tracking a frame, for the rows for which `where` is True.

        Args:
          frames: where each row is.
          features: the frame's memory features.
          pointers: its object pointers.
          found: what it was made of, which the policy decides on.
          where: False for rows that nothing changes for.
        """
        where = jnp.asarray(where)
        remembered = self.policy.remember(self.situation(frames), found)

        def after(new: Array, old: Array) -> Array:
            return jnp.where(where.reshape(-1, *[1] * (old.ndim - 1)), new, old).astype(old.dtype)

        return dataclasses.replace(
            self,
            recent=self.recent.put(frames.frame, features, remembered.slots & where[:, None]),
            recent_pointers=self.recent_pointers.write(frames.frame, pointers, where),
            state=jax.tree.map(after, remembered.state, self.state),
        )

    def recall(self, model: SAM2, frames: ObjectFrames) -> Memory:
        """What there is to attend to in the given frames (`sam2_base._prepare_memory_conditioned_features`)."""
        recalled = self.policy.recall(self.situation(frames))
        memory = Memory(*self._maps(model, recalled), *self._pointers(model, frames))
        return dataclasses.replace(memory, maps_weight=recalled.weights)

    def _maps(self, model: SAM2, recalled: Recalled):
        config = model.config
        side, dim = config.embedding_size, config.memory_dim
        maps = jnp.concatenate([self.prompted.values, self.recent.values], axis=1).astype(model.dtype)
        exist = jnp.concatenate([self.prompted.frames != EMPTY, recalled.exist], axis=1)
        # The last encoding is for prompted frames, however far away.
        timeless = jnp.full(self.prompted.frames.shape, config.num_maskmem - 1)
        which = jnp.concatenate([timeless, recalled.encoding], axis=1)
        times = model.maskmem_tpos_enc[...][:, 0, 0][which]
        places = sine_encoding_2d(side, side, dim).reshape(side * side, dim)
        encodings = (times[:, :, None] + places).astype(model.dtype)
        return maps.reshape(encodings.shape), encodings, exist

    def _pointers(self, model: SAM2, frames: ObjectFrames):
        config = model.config
        at = jnp.asarray(self.prompted_pointers.frames)
        # Exemplars stand beside the clip, which counts as one frame longer for them.
        beside = jnp.any((at != EMPTY) & ((at < 0) | (at >= frames.num_frames[:, None])), axis=1)
        reach = jnp.minimum(frames.num_frames + beside, config.max_obj_ptrs_in_encoder)[:, None]
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
