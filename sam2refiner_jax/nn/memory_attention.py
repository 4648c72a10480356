"""Attention of a frame to the memories of other frames (`sam2.modeling.memory_attention`)."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ..config import SAM2Config
from .attention import dot_product_attention
from .layers import layer_norm, linear

__all__ = ["Memory", "MemoryAttention", "RoPECrossAttention", "RoPESelfAttention", "axial_rotations", "rotate"]

# Queries whose logits to one map are computed at a time on CPUs: 8 MiB of them at 1024 pixels.
QUERY_BLOCK = 512
# What the logit of a mean of four keys gains, to weigh as much as the four.
LOG_OF_POOLED = math.log(4)
# Below any logit, and finite: a maximum to start from.
NO_LOGIT = -1e30

Rotations = tuple[Float[Array, "n pairs"], Float[Array, "n pairs"]]


def axial_rotations(side: int, dim: int, *, theta: float = 10000.0) -> Rotations:
    """Cosines and sines of the rotary encoding of a `side` x `side` map: half the channel pairs code x, half y."""
    frequencies = 1.0 / theta ** (jnp.arange(0, dim, 4)[: dim // 4].astype(jnp.float32) / dim)
    index = jnp.arange(side * side)
    x, y = (index % side).astype(jnp.float32), (index // side).astype(jnp.float32)
    angle = jnp.concatenate([x[:, None] * frequencies, y[:, None] * frequencies], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "*b n d"], rotations: Rotations) -> Float[Array, "*b n d"]:
    """Turns each pair of channels by its token's angle, in float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = rotations
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


class OneHeadAttention(nnx.Module):
    """The projections of attention with one head; `kv_dim` are the channels of keys and values, `dim` unless given.

    Args:
      dim: channels of queries, of the head and of the output.
      kv_dim: channels of keys and values before they are projected; `dim` unless given.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, *, kv_dim: int | None = None, dtype: DTypeLike, rngs: nnx.Rngs):
        kv_dim = dim if kv_dim is None else kv_dim
        self.q_proj = linear(dim, dim, dtype=dtype, rngs=rngs)
        self.k_proj = linear(kv_dim, dim, dtype=dtype, rngs=rngs)
        self.v_proj = linear(kv_dim, dim, dtype=dtype, rngs=rngs)
        self.out_proj = linear(dim, dim, dtype=dtype, rngs=rngs)


class RoPESelfAttention(OneHeadAttention):
    """Self-attention of a map, with a rotary code of place on queries and keys."""

    def __call__(self, x: Float[Array, "b n c"], rotations: Rotations) -> Float[Array, "b n c"]:
        q, k = rotate(self.q_proj(x), rotations), rotate(self.k_proj(x), rotations)
        out = dot_product_attention(q[:, :, None], k[:, :, None], self.v_proj(x)[:, :, None])
        return self.out_proj(out[:, :, 0])


class RoPECrossAttention(OneHeadAttention):
    """Attention of a map to memories: maps like it, with the rotary code, and pointers without it.

    Args:
      dim: channels of queries, of the head and of the output.
      kv_dim: channels of memories.
      pooling: `SAM2Config.memory_pooling`.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, *, kv_dim: int, pooling: str = "none", dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(dim, kv_dim=kv_dim, dtype=dtype, rngs=rngs)
        self.pooling = pooling

    def __call__(self, x: Float[Array, "b n c"], memory: "Memory", rotations: Rotations) -> Float[Array, "b n c"]:
        """Attends to memory features and pointers. Where none exist the result is finite and means nothing.

        Values are averaged first and projected then. It is the same, since attention weights sum to one, and a quarter
        of the work, since memories have a quarter of the channels.
        """
        q = rotate(self.q_proj(x), rotations)
        map_keys = rotate(self.k_proj(memory.maps + memory.maps_pe), rotations)
        if memory.maps_weight is not None:
            map_keys = map_keys * memory.maps_weight[..., None, None].astype(map_keys.dtype)
        pointer_keys = self.k_proj(memory.pointers + memory.pointers_pe)
        averaged = jax.lax.platform_dependent(
            q,
            map_keys,
            pointer_keys,
            memory,
            cpu=with_pooling(average_map_by_map, self.pooling),
            default=with_pooling(average_at_once, self.pooling),
        )
        return self.out_proj(self.v_proj(averaged))


@functools.cache
def with_pooling(average: Callable[..., Array], pooling: str) -> Callable[..., Array]:
    """One of the functions below; the same object each time, so that JAX traces it once for all layers."""
    return functools.partial(average, pooling=pooling)


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


def average_at_once(
    q: Float[Array, "b n c"],
    map_keys: Float[Array, "b maps n c"],
    pointer_keys: Float[Array, "b p c"],
    memory: Memory,
    pooling: str = "none",
) -> Float[Array, "b n cm"]:
    """The memories' values averaged with attention's weights; `pooling` is `SAM2Config.memory_pooling`."""
    if pooling == "none":
        return _average_all(q, map_keys, pointer_keys, memory)
    pooled_keys, pooled_memory, map_bias = pool_maps(map_keys, memory, pooling)
    averaged = _average_all(q, pooled_keys, pointer_keys, pooled_memory, map_bias)
    has_several = jnp.sum(memory.maps_exist, axis=1) > 1  # a single map is attended to as it is
    return jax.lax.cond(
        has_several.all(),
        lambda: averaged,
        lambda: jnp.where(has_several[:, None, None], averaged, _average_all(q, map_keys, pointer_keys, memory)),
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


def _average_all(
    q: Float[Array, "b q c"],
    map_keys: Float[Array, "b maps n c"],
    pointer_keys: Float[Array, "b p c"],
    memory: Memory,
    map_bias: float = 0.0,
) -> Float[Array, "b q cm"]:
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


class MemoryAttentionLayer(nnx.Module):
    """Self-attention of the frame, cross-attention to the memories, MLP; pre-norm, no dropout.

    Args:
      dim: channels of the frame's features.
      memory_dim: channels of memory features and of the tokens that pointers are cut into.
      mlp_dim: channels inside the MLP.
      pooling: `SAM2Config.memory_pooling`.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        *,
        mlp_dim: int = 2048,
        pooling: str = "none",
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.self_attn = RoPESelfAttention(dim, dtype=dtype, rngs=rngs)
        self.cross_attn_image = RoPECrossAttention(dim, kv_dim=memory_dim, pooling=pooling, dtype=dtype, rngs=rngs)
        self.linear1 = linear(dim, mlp_dim, dtype=dtype, rngs=rngs)
        self.linear2 = linear(mlp_dim, dim, dtype=dtype, rngs=rngs)
        self.norm1 = layer_norm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.norm3 = layer_norm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"], memory: Memory, rotations: Rotations) -> Float[Array, "b n c"]:
        x = x + self.self_attn(self.norm1(x), rotations)
        x = x + self.cross_attn_image(self.norm2(x), memory, rotations)
        return x + self.linear2(jax.nn.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nnx.Module):
    """Conditions a frame's stride-16 features on memory features and object pointers.

    Args:
      config: the model's configuration; its `hidden_dim`, `memory_dim`, `mlp_dim` and `memory_pooling` are read.
      num_layers: number of layers, one after the other.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, config: SAM2Config, *, num_layers: int = 4, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List(
            MemoryAttentionLayer(
                config.hidden_dim,
                config.memory_dim,
                mlp_dim=config.mlp_dim,
                pooling=config.memory_pooling,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(num_layers)
        )
        self.norm = layer_norm(config.hidden_dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(
        self, frame: Float[Array, "b h h c"], frame_pe: Float[Array, "h h c"], memory: Memory
    ) -> Float[Array, "b h h c"]:
        """The frame's features in the light of the memories.

        Args:
          frame: stride-16 features of a square image.
          frame_pe: their sine encoding.
          memory: what to attend to; maps are as large as the frame's.
        """
        b, h, _, c = frame.shape
        x = (frame + 0.1 * frame_pe.astype(frame.dtype)).reshape(b, h * h, c)
        rotations = axial_rotations(h, c)
        for layer in self.layers:
            x = layer(x, memory, rotations)
        return self.norm(x).reshape(b, h, h, c)
