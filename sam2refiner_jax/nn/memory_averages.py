"""Values of memories averaged with attention's weights, in the two forms that XLA compiles; kernels are elsewhere."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from .rotary import Rotations, project, rotate

__all__ = ["NO_LOGIT", "Memory", "average_in_blocks", "average_map_by_map", "keys_of"]

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


def average_map_by_map(
    q: Float[Array, "b n c"],
    map_keys: Float[Array, "b maps n c"],
    pointer_keys: Float[Array, "b p c"],
    memory: Memory,
    pooling: str = "none",
) -> Float[Array, "b n cm"]:
    """The memories' values averaged with attention's weights, never with the logits of more than one map.

    Args:
      q: queries, with the rotary code of their places.
      map_keys: keys of the maps, of `keys_of`.
      pointer_keys: keys of the pointers, of `keys_of`.
      memory: the values, and what of them exists.
      pooling: `SAM2Config.memory_pooling`.
    """
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
    """`average_map_by_map` of maps as they are; `map_bias` is added to the logits of their keys."""
    q = q / math.sqrt(q.shape[-1])
    sums = add_to(nothing_yet(q, memory), q, pointer_keys, memory.pointers, memory.pointers_exist, 0.0)

    def add_map(sums, one):
        keys, values, exists = one
        return add_to(sums, q, keys, values, exists[:, None], map_bias), None

    maps = jax.tree.map(lambda x: x.swapaxes(0, 1), (map_keys, memory.maps, memory.maps_exist))
    return average_of(jax.lax.scan(add_map, sums, maps)[0]).astype(memory.maps.dtype)


def average_in_blocks(
    q: Float[Array, "b n c"],
    map_keys: Float[Array, "b maps n c"],
    pointer_keys: Float[Array, "b p c"],
    memory: Memory,
    pooling: str = "none",
) -> Float[Array, "b n cm"]:
    """`average_map_by_map` for CPUs: a block of queries at a time, and no work for maps that do not exist."""

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
    # Blocks of queries, padded to a whole number.
    blocks = -(-n // QUERY_BLOCK)
    size = -(-n // blocks)
    q = jnp.pad(q, ((0, blocks * size - n), (0, 0))).reshape(blocks, size, c) / math.sqrt(c)

    def add(sums, keys, values, exist, bias=0.0):
        return jax.lax.map(lambda block: add_to(block[1], block[0], keys, values, exist, bias), (q, sums))

    def add_map(sums, one):
        keys, values, exists = one
        return jax.lax.cond(exists, lambda s: add(s, keys, values, None, map_bias), lambda s: s, sums), None

    sums = add(nothing_yet(q, memory), pointer_keys, memory.pointers, memory.pointers_exist)
    sums, _ = jax.lax.scan(add_map, sums, (map_keys, memory.maps, memory.maps_exist))
    average = average_of(sums)
    return average.reshape(blocks * size, -1)[:n].astype(memory.maps.dtype)


# Of each query its highest logit so far, and the sums of weights and of weighted values relative to it.
Sums = tuple[Float[Array, "*rows 1"], Float[Array, "*rows 1"], Float[Array, "*rows cm"]]


def nothing_yet(q: Float[Array, "*b q c"], memory: Memory) -> Sums:
    """The sums of queries before the first key."""
    rows, width = q.shape[:-1], memory.pointers.shape[-1]
    return jnp.full((*rows, 1), NO_LOGIT), jnp.zeros((*rows, 1)), jnp.zeros((*rows, width))


@functools.partial(jax.checkpoint, static_argnums=(5,))  # gradients compute the logits again
def add_to(
    sums: Sums,
    q: Float[Array, "*b q c"],
    keys: Float[Array, "*b k c"],
    values: Float[Array, "*b k cm"],
    exist: Bool[Array, "*b #k"] | None,
    bias: float,
) -> Sums:
    """The sums with more keys and values (the online softmax); `bias` is added to their logits."""
    highest, total, average = sums
    logits = jnp.einsum("...qc,...kc->...qk", q, keys, preferred_element_type=jnp.float32)
    if bias:
        logits = logits + bias
    if exist is not None:
        logits = jnp.where(exist[..., None, :], logits, -jnp.inf)
    new = jnp.maximum(highest, logits.max(axis=-1, keepdims=True))
    weights, shrink = jnp.exp(logits - new), jnp.exp(highest - new)
    added = jnp.einsum("...qk,...kc->...qc", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return new, total * shrink + weights.sum(axis=-1, keepdims=True), average * shrink + added


def average_of(sums: Sums) -> Float[Array, "*rows cm"]:
    """The values averaged; zero where no key was there."""
    _, total, average = sums
    return average / jnp.where(total > 0, total, 1.0)
