"""The one place that decides how attention is computed: on CPUs in blocks, on TPUs by kernels, on GPUs by cuDNN."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from .layers import linear
from .per_chip import divides_over_mesh
from .windows import max_pool_2x2, merge_windows, partition_windows

__all__ = ["Attention", "dot_product_attention", "map_attention"]

# Logits of one head from which on attention is worth a kernel of its own.
LONG_LOGITS = 2**18
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

    In bfloat16, long sequences are attended to without writing the weights to memory, where the platform can. In
    float32 they are written on GPUs and TPUs, whose kernels would round the products.

    Args:
      q: queries.
      k: keys.
      v: values.
      key_mask: False where a key must not be attended to; at least one key of each batch element must be True.
    """
    kernels = {"tpu": tpu_attention, "cuda": cuda_attention} if has_kernels(q.dtype) else {}
    return jax.lax.platform_dependent(q, k, v, key_mask, cpu=blocked_attention, default=plain_attention, **kernels)


def map_attention(
    qkv: Float[Array, "b h w c3"], *, num_heads: int, window: int | None, pool: bool
) -> Float[Array, "b h2 w2 c"]:
    """Self-attention of a map, everywhere or within windows.

    Args:
      qkv: the map's queries, keys and values, one after the other, each with its heads one after the other.
      num_heads: attention heads.
      window: side of the windows, which divides the map's sides; None to attend to all of the map.
      pool: take the maximum of every 2x2 queries.
    """

    def by(attend, form=attend_in_windows):
        return functools.partial(form, attend, num_heads=num_heads, window=window, pool=pool)

    kernels = {"tpu": by(tpu_attention, tpu_map_attention), "cuda": by(cuda_attention)}
    return jax.lax.platform_dependent(
        qkv,
        cpu=by(blocked_attention),
        default=by(plain_attention),
        **(kernels if has_kernels(qkv.dtype) else {}),
    )


def has_kernels(dtype: DTypeLike) -> bool:
    """Whether GPUs and TPUs may have kernels for the type; every platform that is named is traced, needed or not."""
    return jnp.dtype(dtype).itemsize == 2


def attend_in_windows(
    attend: Callable[..., Array],
    qkv: Float[Array, "b h w c3"],
    *,
    num_heads: int,
    window: int | None,
    pool: bool,
) -> Float[Array, "b h2 w2 c"]:
    """`map_attention` by way of `attend`, one of the functions below."""
    windows = qkv if window is None else partition_windows(qkv, window)
    q, k, v = jnp.split(windows, 3, axis=-1)
    if pool:
        q = max_pool_2x2(q)
    shape = q.shape
    q, k, v = (x.reshape(x.shape[0], x.shape[1] * x.shape[2], num_heads, -1) for x in (q, k, v))
    out = attend(q, k, v, None).reshape(shape)
    shrink = 2 if pool else 1
    return out if window is None else merge_windows(out, (qkv.shape[1] // shrink, qkv.shape[2] // shrink))


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


def tpu_attention(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    key_mask: Bool[Array, "b k"] | None,
) -> Float[Array, "b q h d"]:
    """Flash attention for long sequences in bfloat16."""
    if q.dtype == jnp.bfloat16 and q.shape[1] * k.shape[1] >= LONG_LOGITS:
        from . import attention_tpu  # takes a second, of which other platforms need nothing

        if divides_over_mesh(q.shape[0]):
            return attention_tpu.long_attention(q, k, v, key_mask)
    return plain_attention(q, k, v, key_mask)


def tpu_map_attention(
    attend: Callable[..., Array], qkv: Float[Array, "b h w c3"], *, num_heads: int, window: int | None, pool: bool
) -> Float[Array, "b h2 w2 c"]:
    """A kernel for windows in bfloat16; else by way of `attend`."""
    if qkv.dtype == jnp.bfloat16 and window is not None:
        from . import attention_tpu

        if divides_over_mesh(qkv.shape[0]):
            return attention_tpu.map_attention(qkv, num_heads=num_heads, window=window, pool=pool)
    return attend_in_windows(attend, qkv, num_heads=num_heads, window=window, pool=pool)


def cuda_attention(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    key_mask: Bool[Array, "b k"] | None,
) -> Float[Array, "b q h d"]:
    """CuDNN's flash attention where it can: half precision, heads of up to 128 channels in eights, no mask."""
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    # Programs are traced for all platforms; whether cuDNN is there can be asked only where there is a GPU.
    if half and key_mask is None and q.shape[-1] <= 128 and q.shape[-1] % 8 == 0 and jax.default_backend() == "gpu":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return plain_attention(q, k, v, key_mask)


class Attention(nnx.Module):
    """Multi-head attention that may shrink the channels inside (`sam2.modeling.sam.transformer.Attention`).

    Args:
      dim: channels of queries and of the output.
      num_heads: attention heads.
      downsample_rate: the factor by which the inner channels are fewer than `dim`.
      kv_dim: channels of keys and values; `dim` unless given.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
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
