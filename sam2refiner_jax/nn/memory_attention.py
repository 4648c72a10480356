"""Attention of a frame to the memories of other frames (`sam2.modeling.memory_attention`)."""

import functools
from collections.abc import Callable

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..config import SAM2Config
from .attention import dot_product_attention, has_kernels
from .layers import layer_norm, linear
from .memory_averages import Memory, average_in_blocks, average_map_by_map, keys_of
from .per_chip import divides_over_mesh
from .rotary import Rotations, axial_rotations, project, rotate, with_pairs_apart

__all__ = ["Memory", "MemoryAttention", "RoPECrossAttention", "RoPESelfAttention"]


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
        self.dtype = dtype
        self.q_proj = linear(dim, dim, dtype=dtype, rngs=rngs)
        self.k_proj = linear(kv_dim, dim, dtype=dtype, rngs=rngs)
        self.v_proj = linear(kv_dim, dim, dtype=dtype, rngs=rngs)
        self.out_proj = linear(dim, dim, dtype=dtype, rngs=rngs)

    def queries(self, x: Float[Array, "b n c"], rotations: Rotations) -> Float[Array, "b n c"]:
        """With the rotary code of their places, the channels of pairs apart."""
        return rotate(project(x, with_pairs_apart(self.q_proj), self.dtype), rotations)


class RoPESelfAttention(OneHeadAttention):
    """Self-attention of a map, with a rotary code of place on queries and keys."""

    def __call__(self, x: Float[Array, "b n c"], rotations: Rotations) -> Float[Array, "b n c"]:
        q = self.queries(x, rotations)
        k = rotate(project(x, with_pairs_apart(self.k_proj), self.dtype), rotations)
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
        weights = with_pairs_apart(self.k_proj)
        kernels = {"tpu": average_by_kernel} if has_kernels(self.dtype) and self.pooling == "none" else {}
        averaged = jax.lax.platform_dependent(
            self.queries(x, rotations),
            memory,
            weights,
            rotations,
            cpu=form_of(average_in_blocks, self.pooling),
            default=form_of(average_map_by_map, self.pooling),
            **kernels,
        )
        return self.out_proj(self.v_proj(averaged))


@functools.cache
def form_of(average: Callable[..., Array], pooling: str) -> Callable[..., Array]:
    """`average`, a function of `memory_averages`, of queries and memories whose keys are yet to be made.

    The same object each time, so that JAX traces it once for all layers.
    """

    def averaged(queries, memory: Memory, key_weights, rotations):
        return average(queries, *keys_of(memory, key_weights, rotations, queries.dtype), memory, pooling)

    return averaged


def average_by_kernel(queries, memory: Memory, key_weights, rotations):
    """For TPUs: never writes logits or keys to memory, and does no work for maps that do not exist."""
    from . import memory_attention_tpu  # takes a second, of which other platforms need nothing

    if memory_attention_tpu.has_blocks(queries.shape[1]) and divides_over_mesh(queries.shape[0]):
        return memory_attention_tpu.average(queries, memory, key_weights, rotations)
    return form_of(average_map_by_map, "none")(queries, memory, key_weights, rotations)


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
      config: the model's configuration; its `hidden_dim`, `memory_dim`, `mlp_dim`, `memory_layers` and `memory_pooling`
        are read.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, config: SAM2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List(
            MemoryAttentionLayer(
                config.hidden_dim,
                config.memory_dim,
                mlp_dim=config.mlp_dim,
                pooling=config.memory_pooling,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(config.memory_layers)
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
