"""The one place that decides how attention is computed."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from .layers import linear

__all__ = ["Attention", "dot_product_attention"]


# Logits that the blocked form computes at a time: 8 MiB, so that they stay in a CPU's cache.
BLOCK_LOGITS = 2**21


def dot_product_attention(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    *,
    key_mask: Bool[Array, "b k"] | None = None,
) -> Float[Array, "b q h d"]:
    """Scaled dot-product attention with a float32 softmax.

    Args:
      q: queries.
      k: keys.
      v: values.
      key_mask: False where a key must not be attended to; at least one key of each batch element must be True.
    """
    return jax.lax.platform_dependent(q, k, v, key_mask, cpu=blocked_attention, default=plain_attention)


def plain_attention(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    key_mask: Bool[Array, "b k"] | None,
) -> Float[Array, "b q h d"]:
    """Attention as it is defined."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, None, :], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


# Gradients compute the logits again: storing them would take more memory than everything else.
@jax.checkpoint
def blocked_attention(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    key_mask: Bool[Array, "b k"] | None,
) -> Float[Array, "b q h d"]:
    """Attention for CPUs: products of contiguous matrices, and never all logits of a long sequence at once.

    All of it is float32; CPUs gain nothing from less.
    """
    b, num_queries, h, d = q.shape
    num_keys = k.shape[1]
    dtype = v.dtype
    q, k, v = (x.astype(jnp.float32).swapaxes(1, 2).reshape(b * h, -1, d) for x in (q, k, v))
    key_mask = None if key_mask is None else jnp.repeat(key_mask, h, axis=0)
    if num_queries * num_keys <= BLOCK_LOGITS:
        attend_all = jax.vmap(attend_one, in_axes=(0, None, None, None))
        out = jax.vmap(attend_all)(q, k, v, key_mask)
    else:
        rows = max(1, BLOCK_LOGITS // num_keys)

        def attend_in_blocks(head):
            q, *keys = head
            return jax.lax.map(lambda query: attend_one(query, *keys), q, batch_size=rows)

        out = jax.lax.map(attend_in_blocks, (q, k, v, key_mask))
    return out.reshape(b, h, num_queries, d).swapaxes(1, 2).astype(dtype)


def attend_one(
    q: Float[Array, " d"], k: Float[Array, "k d"], v: Float[Array, "k d"], key_mask: Bool[Array, " k"] | None
) -> Float[Array, " d"]:
    """Attention of one query; normalises the weighted sum rather than the weights, which are far more numerous."""
    logits = q @ k.T / math.sqrt(q.shape[-1])
    if key_mask is not None:
        logits = jnp.where(key_mask, logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max()))
    return weights @ v / weights.sum()


class Attention(nnx.Module):
    """Multi-head attention that may shrink the channels inside (`sam2.modeling.sam.transformer.Attention`).

    Args:
      dim: channels of queries and of the output.
      num_heads: attention heads.
      downsample_rate: the factor by which the inner channels are fewer than `dim`.
      kv_dim: channels of keys and values; `dim` unless given.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        downsample_rate: int = 1,
        kv_dim: int | None = None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.num_heads = num_heads
        inner = dim // downsample_rate
        if inner % num_heads:
            raise ValueError(f"num_heads must divide the inner channels {inner}, got {num_heads}")
        kv_dim = dim if kv_dim is None else kv_dim
        self.q_proj = linear(dim, inner, dtype=dtype, rngs=rngs)
        self.k_proj = linear(kv_dim, inner, dtype=dtype, rngs=rngs)
        self.v_proj = linear(kv_dim, inner, dtype=dtype, rngs=rngs)
        self.out_proj = linear(inner, dim, dtype=dtype, rngs=rngs)

    def split_heads(self, x: Float[Array, "b n c"]) -> Float[Array, "b n h d"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)

    def __call__(
        self,
        q: Float[Array, "b q c"],
        k: Float[Array, "b k ck"],
        v: Float[Array, "b k ck"],
        *,
        key_mask: Bool[Array, "b k"] | None = None,
    ) -> Float[Array, "b q c"]:
        q = self.split_heads(self.q_proj(q))
        k = self.split_heads(self.k_proj(k))
        v = self.split_heads(self.v_proj(v))
        out = dot_product_attention(q, k, v, key_mask=key_mask)
        return self.out_proj(out.reshape(*out.shape[:2], -1))
