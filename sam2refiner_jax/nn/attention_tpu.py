"""Attention for TPUs that never writes its matrix to memory: Pallas kernels (import only where they are needed).

Of several chips each runs the kernels on its own part of the batch. The compiler cannot tell how to divide a kernel, so
programs for several chips are to be traced under `jax.set_mesh(mesh)`, with the batch cut over all of the mesh's axes.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu import flash_attention as flash
from jaxtyping import Array, Bool, Float

from .attention import attend_in_windows, plain_attention
from .per_chip import on_every_chip
from .windows import columns_of_block, merge_windows, partition_windows

__all__ = ["LANES", "largest_block", "long_attention", "map_attention", "product"]

LANES = 128
# Bytes of a block of keys and values; four such blocks, and the logits, are in the 16 MiB of fast memory at a time.
BLOCK_BYTES = 3 * 2**20
# Largest blocks of queries and keys in a long sequence. All keys of 4096 tokens stay in fast memory.
QUERY_BLOCK, KEY_BLOCK, MAJOR_KEY_BLOCK = 512, 1024, 4096
MASKED = -1e30


def long_attention(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    key_mask: Bool[Array, "b k"] | None,
) -> Float[Array, "b q h d"]:
    """Flash attention (https://arxiv.org/abs/2205.14135), forward and backward, for sequences of any length."""
    if key_mask is None:
        return on_every_chip(_flash, q, k, v)
    return on_every_chip(_flash, q, k, v, key_mask)


def _flash(q: Array, k: Array, v: Array, key_mask: Array | None = None) -> Array:
    b, num_queries, _, d = q.shape
    num_keys = k.shape[1]
    q, k, v = (_pad_to_lanes(x, axis=1).swapaxes(1, 2) for x in (q, k, v))
    segments = None
    if key_mask is not None or k.shape[2] > num_keys:
        key_mask = jnp.ones((b, num_keys), bool) if key_mask is None else key_mask
        # Queries, those of the padding too, are of segment 1 and attend to the keys of their segment.
        key_segments = _pad_to_lanes(key_mask.astype(jnp.int32), axis=1)
        segments = flash.SegmentIds(jnp.ones((b, q.shape[2]), jnp.int32), key_segments)
    queries = largest_block(q.shape[2], QUERY_BLOCK)
    keys_major = largest_block(k.shape[2], MAJOR_KEY_BLOCK)
    keys = largest_block(keys_major, KEY_BLOCK)
    sizes = flash.BlockSizes(
        block_b=1,
        block_q=queries,
        block_k_major=keys_major,
        block_k=keys,
        block_q_major_dkv=queries,
        block_q_dkv=queries,
        block_k_major_dkv=keys,
        block_k_dkv=keys,
        block_q_dq=queries,
        block_k_major_dq=keys,
        block_k_dq=keys,
    )
    out = flash.flash_attention(q, k, v, segment_ids=segments, sm_scale=1 / math.sqrt(d), block_sizes=sizes)
    return out.swapaxes(1, 2)[:, :num_queries]


def _pad_to_lanes(x: Array, axis: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % LANES)
    return jnp.pad(x, widths)


def largest_block(size: int, limit: int) -> int:
    """The largest multiple of the lanes that divides `size`, a multiple of them too, and is no more than `limit`."""
    return next(block for block in range(min(size, limit), 0, -LANES) if size % block == 0)


def map_attention(
    qkv: Float[Array, "b h w c3"], *, num_heads: int, window: int, pool: bool
) -> Float[Array, "b h2 w2 c"]:
    """Attention within windows; arguments as of `attention.map_attention`, the window's side being positive.

    Windows are read from the map, and written to it, where they lie, if whole ones come in blocks of whole registers;
    else they are cut out of the map first.
    """
    return on_every_chip(functools.partial(_map_attention, num_heads, window, pool), qkv)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _map_attention(num_heads: int, window: int, pool: bool, qkv: Array) -> Array:
    height, width = qkv.shape[1:3]
    shrink = 2 if pool else 1
    columns = columns_of_block(width, window, pool)
    attend = functools.partial(_attend_in_blocks, num_heads=num_heads, window=window, shrink=shrink)
    if columns is not None:
        return attend(qkv, block=(window, columns))
    # Every window a map of one row.
    windows = partition_windows(qkv, window)
    out = attend(windows.reshape(windows.shape[0], 1, window * window, -1), block=(1, window * window))
    side = window // shrink
    return merge_windows(out.reshape(-1, side, side, out.shape[-1]), (height // shrink, width // shrink))


def _map_attention_forward(num_heads: int, window: int, pool: bool, qkv: Array) -> tuple[Array, Array]:
    return _map_attention(num_heads, window, pool, qkv), qkv


def _map_attention_backward(num_heads: int, window: int, pool: bool, qkv: Array, gradient: Array) -> tuple[Array]:
    plain = functools.partial(attend_in_windows, plain_attention, num_heads=num_heads, window=window, pool=pool)
    return jax.vjp(plain, qkv)[1](gradient)


_map_attention.defvjp(_map_attention_forward, _map_attention_backward)


def _attend_in_blocks(
    qkv: Float[Array, "b h w c3"], *, num_heads: int, window: int, shrink: int, block: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
    """Attention within the windows that lie side by side in blocks of the map.

    Args:
      qkv: queries, keys and values.
      num_heads: attention heads.
      window: side of the windows.
      shrink: 2 to pool the queries, else 1.
      block: rows and columns of what is attended in at a time: windows side by side, or the tokens of one in a row.
    """
    b, height, width, channels = qkv.shape
    rows, columns = block
    channels //= 3
    tokens, queries = rows * columns, rows * columns // shrink**2
    out_rows = max(1, rows // shrink)
    # As many blocks in a row as fit.
    blocks = width // columns
    fits = BLOCK_BYTES // (3 * tokens * channels * qkv.dtype.itemsize)
    count = next(n for n in range(max(1, min(blocks, fits)), 0, -1) if blocks % n == 0)
    programs = (b, height // rows, blocks // count)
    out = jax.ShapeDtypeStruct((b, height // rows * out_rows, blocks * queries // out_rows, channels), qkv.dtype)

    def strip(rows: int, columns: int, lanes: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, rows, columns, lanes), lambda i, y, x: (i, y, x, 0))

    logits = math.prod(programs) * count * queries * tokens
    pooling = 2 * tokens if shrink > 1 else 0
    return pl.pallas_call(
        functools.partial(_attend_in_strip, num_heads=num_heads, window=window, shrink=shrink, blocks=count),
        grid=programs,
        in_specs=[strip(rows, count * columns, 3 * channels)],
        out_specs=strip(out_rows, count * queries // out_rows, channels),
        out_shape=out,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        cost_estimate=pl.CostEstimate(
            flops=(4 * logits * channels + pooling * qkv.size // 3),
            transcendentals=logits * num_heads,
            bytes_accessed=(qkv.size + out.size) * qkv.dtype.itemsize,
        ),
    )(qkv)


def _attend_in_strip(qkv_ref, out_ref, *, num_heads: int, window: int, shrink: int, blocks: int) -> None:
    """The kernel: a strip of the map, block by block. Windows side by side in a block share a matrix product."""
    rows, columns, out_columns = qkv_ref.shape[0], qkv_ref.shape[1] // blocks, out_ref.shape[1] // blocks
    channels = out_ref.shape[-1]
    d = channels // num_heads
    # Tokens from one row of the map to the next: a window in a row has its own rows.
    pitch = columns if rows > 1 else window

    def attend(index, carry):
        qkv = qkv_ref[:, pl.ds(index * columns, columns), :].reshape(rows * columns, 3 * channels)
        q = qkv[:, :channels]
        if shrink > 1:
            q = _max_pool_tokens(q, pitch)
        heads = []
        for head in range(num_heads):
            query, key, value = (x[:, n * channels + head * d :][:, :d] for n, x in enumerate((q, qkv, qkv)))
            logits = product(query, key, contract=(1, 1)) * (1 / math.sqrt(d))
            if window < pitch:
                of_query = jax.lax.div(_column(logits.shape, 0, pitch // shrink), window // shrink)
                of_key = jax.lax.div(_column(logits.shape, 1, pitch), window)
                logits = jnp.where(of_query == of_key, logits, MASKED)
            weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
            out = product(weights.astype(value.dtype), value, contract=(1, 0))
            heads.append(out / weights.sum(axis=-1, keepdims=True))
        out = jnp.concatenate(heads, axis=-1).astype(out_ref.dtype)
        out_ref[:, pl.ds(index * out_columns, out_columns), :] = out.reshape(-1, out_columns, channels)
        return carry

    jax.lax.fori_loop(0, blocks, attend, 0)


def _max_pool_tokens(x: Float[Array, "n c"], pitch: int) -> Float[Array, "n4 c"]:
    """2x2 pooling of a map's tokens, `pitch` to a row. Products with ones and zeros pick the four of each: exact."""
    shape = (x.shape[0] // 4, x.shape[0])
    row, column = _row(shape, 0, pitch // 2), _column(shape, 0, pitch // 2)
    token = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    picked = [
        product((token == (2 * row + down) * pitch + 2 * column + right).astype(x.dtype), x, contract=(1, 0))
        for down in range(2)
        for right in range(2)
    ]
    return functools.reduce(jnp.maximum, picked).astype(x.dtype)


def _row(shape: tuple[int, int], axis: int, pitch: int) -> Array:
    return jax.lax.div(jax.lax.broadcasted_iota(jnp.int32, shape, axis), pitch)


def _column(shape: tuple[int, int], axis: int, pitch: int) -> Array:
    return jax.lax.rem(jax.lax.broadcasted_iota(jnp.int32, shape, axis), pitch)


def product(a: Array, b: Array, *, contract: tuple[int, int]) -> Array:
    """A product of matrices within a kernel, over an axis of each; float32 whatever their type."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
