"""Values of memories averaged with attention's weights, in the two forms that XLA compiles; kernels are elsewhere."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from .rotary import Rotations, project, rotate

__all__ = ["NO_LOGIT", "Memory", "average_all", "average_at_once", "average_map_by_map", "keys_of"]

# Queries whose logits to one map are computed at a time on CPUs: 8 MiB of them at 1024 pixels.
QUERY_BLOCK = 512
# What the logit of a mean of four keys gains, to weigh as much as the four.
LOG_OF_POOLED = math.log(4)
# Below any logit, and finite: a maximum to start from.
NO_LOGIT = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What a batch of frames attends to.

    Attributes:
      maps: memory features of other frames.
      maps_pe: their encodings of place and time.
      maps_exist: False for maps to ignore.
      pointers: object pointers, cut into tokens as wide as the features.
      pointers_pe: their encodings of time.
      pointers_exist: False for tokens to ignore.
      maps_weight: what the keys of each map are multiplied with; None for 1.
    """

    maps: Float[Array, "*b maps n cm"]
    maps_pe: Float[Array, "*b maps n cm"]
    maps_exist: Bool[Array, "*b maps"]
    pointers: Float[Array, "*b p cm"]
    pointers_pe: Float[Array, "*b p cm"]
    pointers_exist: Bool[Array, "*b p"]
    maps_weight: Float[Array, "*b maps"] | None = None


def keys_of(
    memory: Memory, weights: tuple[Float[Array, "cm c"], Float[Array, " c"]], rotations: Rotations, dtype: DTypeLike
) -> tuple[Float[Array, "*b maps n c"], Float[Array, "*b p c"]]:
    """Keys of the maps, with the rotary code of their places, and of the pointers.

    Args:
      memory: what they are made of.
      weights: of the projection to keys, the channels of pairs apart.
      rotations: of the maps' places.
      dtype: computation type.
    """
    map_keys = rotate(project(memory.maps + memory.maps_pe, weights, dtype), rotations)
    if memory.maps_weight is not None:
        map_keys = map_keys * memory.maps_weight[..., None, None].astype(dtype)
    return map_keys, project(memory.pointers + memory.pointers_pe, weights, dtype)


def average_at_once(
    q: Float[Array, "b n c"],
    map_keys: Float[Array, "b maps n c"],
    pointer_keys: Float[Array, "b p c"],
    memory: Memory,
    pooling: str = "none",
) -> Float[Array, "b n cm"]:
    """The memories' values averaged with attention's weights; `pooling` is `SAM2Config.memory_pooling`."""
    if pooling == "none":
        return average_all(q, map_keys, pointer_keys, memory)
    pooled_keys, pooled_memory, map_bias = pool_maps(map_keys, memory, pooling)
    averaged = average_all(q, pooled_keys, pointer_keys, pooled_memory, map_bias)
    has_several = jnp.sum(memory.maps_exist, axis=1) > 1  # a single map is attended to as it is
    return jax.lax.cond(
        has_several.all(),
        lambda: averaged,
        lambda: jnp.where(has_several[:, None, None], averaged, average_all(q, map_keys, pointer_keys, memory)),
    )


def pool_maps(
    map_keys: Float[Array, "*b maps n c"], memory: Memory, pooling: str
) -> tuple[Float[Array, "*b maps n4 c"], Memory, float]:
    """Means over every 2x2 places of the maps' keys and values, and what is to be added to the logits of such keys."""

    def pool(x):
        *lead, n, c = x.shape
        side = math.isqrt(n)
        return x.reshape(*lead, side // 2, 2, side // 2, 2, c).mean(axis=(-4, -2)).reshape(*lead, n // 4, c)

    map_keys = pool(map_keys)
    memory = dataclasses.replace(memory, maps=pool(memory.maps), maps_pe=pool(memory.maps_pe))
    if pooling == "keys":
        return map_keys + LOG_OF_POOLED, memory, 0.0
    return map_keys, memory, LOG_OF_POOLED


def average_all(
    q: Float[Array, "b q c"],
    map_keys: Float[Array, "b maps n c"],
    pointer_keys: Float[Array, "b p c"],
    memory: Memory,
    map_bias: float = 0.0,
) -> Float[Array, "b q cm"]:
    """The values averaged over all memories at once; `map_bias` is added to the logits of the maps' keys."""
    b, maps, n, c = map_keys.shape
    keys = jnp.concatenate([map_keys.reshape(b, maps * n, c), pointer_keys], axis=1)
    values = jnp.concatenate([memory.maps.reshape(b, maps * n, -1), memory.pointers], axis=1)
    exist = jnp.concatenate([jnp.repeat(memory.maps_exist, n, axis=1), memory.pointers_exist], axis=1)
    logits = jnp.einsum("bqc,bkc->bqk", q, keys, preferred_element_type=jnp.float32) / math.sqrt(c)
    if map_bias:
        logits = logits.at[:, :, : maps * n].add(map_bias)
    weights = jax.nn.softmax(jnp.where(exist[:, None], logits, NO_LOGIT), axis=-1)
    return jnp.einsum("bqk,bkc->bqc", weights.astype(values.dtype), values)


def average_map_by_map(
    q: Float[Array, "b n c"],
    map_keys: Float[Array, "b maps n c"],
    pointer_keys: Float[Array, "b p c"],
    memory: Memory,
    pooling: str = "none",
) -> Float[Array, "b n cm"]:
    """`average_at_once` for CPUs: never all logits at once, and no work for maps that do not exist."""

    def average_of_one(one):
        q, map_keys, pointer_keys, memory = one
        if pooling == "none":
            return _average_of_one(*one)

        def pooled():
            keys, means, map_bias = pool_maps(map_keys, memory, pooling)
            return _average_of_one(q, keys, pointer_keys, means, map_bias)

        return jax.lax.cond(memory.maps_exist.sum() > 1, pooled, lambda: _average_of_one(*one))

    return jax.lax.map(average_of_one, (q, map_keys, pointer_keys, memory))


def _average_of_one(q, map_keys, pointer_keys, memory: Memory, map_bias: float = 0.0):
    n, c = q.shape
    # Blocks of queries, padded to a whole number; each with its highest logit so far, and sums relative to it.
    blocks = -(-n // QUERY_BLOCK)
    size = -(-n // blocks)
    q = jnp.pad(q, ((0, blocks * size - n), (0, 0))).reshape(blocks, size, c) / math.sqrt(c)
    width = memory.pointers.shape[-1]
    sums = (
        jnp.full((blocks, size, 1), NO_LOGIT),
        jnp.zeros((blocks, size, 1)),
        jnp.zeros((blocks, size, width)),
    )

    def add(sums, keys, values, exist, bias=0.0):
        def add_to_block(block):
            q, highest, total, average = block
            logits = jnp.einsum("qc,kc->qk", q, keys, preferred_element_type=jnp.float32)
            if bias:
                logits = logits + bias
            if exist is not None:
                logits = jnp.where(exist, logits, -jnp.inf)
            new = jnp.maximum(highest, logits.max(axis=-1, keepdims=True))
            weights, shrink = jnp.exp(logits - new), jnp.exp(highest - new)
            added = jnp.einsum("qk,kc->qc", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
            return new, total * shrink + weights.sum(axis=-1, keepdims=True), average * shrink + added

        return jax.lax.map(add_to_block, (q, *sums))

    def add_map(sums, one):
        keys, values, exists = one
        return jax.lax.cond(exists, lambda s: add(s, keys, values, None, map_bias), lambda s: s, sums), None

    sums = add(sums, pointer_keys, memory.pointers, memory.pointers_exist)
    (_, total, average), _ = jax.lax.scan(add_map, sums, (map_keys, memory.maps, memory.maps_exist))
    average = average / jnp.where(total > 0, total, 1.0)
    return average.reshape(blocks * size, width)[:n].astype(memory.maps.dtype)
