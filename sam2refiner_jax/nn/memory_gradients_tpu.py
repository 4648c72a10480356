"""Gradients of attention to memories for TPUs: a Pallas kernel that writes no logits to memory.

With each query's logarithm of its sum of weights known, and the inner product of what came out and its gradient, blocks
of logits are made again and used at once (https://arxiv.org/abs/2205.14135, section 3.1 and appendix B). Of an object
all queries and the sum of their gradients stay on the chip, while the keys of its maps pass by once.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from .attention_tpu import largest_block, product

__all__ = ["gradients_of_maps", "gradients_of_tokens"]

# Blocks of queries and keys that meet in one matrix of logits, and queries that are in fast memory at a time.
QUERIES, KEYS, PART = 512, 1024, 4096
# Fast memory that the kernel may have.
VMEM_BYTES = 64 * 2**20


def gradients_of_tokens(
    q: Float[Array, "b n c"],
    keys: Float[Array, "b p c"],
    values: Float[Array, "b p cm"],
    exist: Bool[Array, "b p"],
    sums: Float[Array, "b n 2"],
    gradient: Float[Array, "b n cm"],
) -> tuple[Float[Array, "b n c"], Float[Array, "b p c"], Float[Array, "b p cm"]]:
    """What a few keys have in the gradients of queries (float32), keys and values; see `gradients_of_maps`."""
    scale = 1 / math.sqrt(q.shape[-1])
    multiply = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    logits = multiply("bnc,bpc->bnp", q, keys) * scale
    weights = jnp.where(exist[:, None], jnp.exp(logits - sums[..., :1]), 0.0)
    d_weights = multiply("bnv,bpv->bnp", gradient, values)
    d_logits = (weights * (d_weights - sums[..., 1:]) * scale).astype(q.dtype)
    d_keys = multiply("bnp,bnc->bpc", d_logits, q).astype(keys.dtype)
    d_values = multiply("bnp,bnv->bpv", weights.astype(gradient.dtype), gradient).astype(values.dtype)
    return multiply("bnp,bpc->bnc", d_logits, keys), d_keys, d_values


def gradients_of_maps(
    q: Float[Array, "b n c"],
    keys: Float[Array, "b maps n c"],
    values: Float[Array, "b maps n cm"],
    exist: Int[Array, "b maps"],
    sums: Float[Array, "b n 2"],
    gradient: Float[Array, "b n cm"],
) -> tuple[Float[Array, "b n c"], Float[Array, "b maps n c"], Float[Array, "b maps n cm"]]:
    """What maps have in the gradients of queries (float32), keys and values; 0 for maps that do not exist.

    Args:
      q: queries.
      keys: of the maps.
      values: of the maps.
      exist: 0 for maps to ignore, which are neither read nor computed with.
      sums: of each query the logarithm of its sum of exponentials over all keys, and the inner product of what it was
        given with the gradient; float32.
      gradient: of what the queries were given.
    """
    b, n, c = q.shape
    maps, channels = values.shape[1], values.shape[-1]
    part, block = largest_block(n, PART), largest_block(n, KEYS)
    parts, blocks = n // part, n // block

    def of_queries(i, query, *_):
        return i, query, 0

    def of_read_keys(i, query, number, key, exist):
        return i, number, jnp.where(exist[i, number] > 0, key, 0), 0

    def of_keys(i, query, number, key, *_):
        return i, query, number, key, 0

    logits = b * n * maps * n
    d_q, d_keys, d_values = pl.pallas_call(
        functools.partial(_differentiate, queries=largest_block(part, QUERIES)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, parts, maps, blocks),
            in_specs=[
                pl.BlockSpec((None, part, c), of_queries),
                pl.BlockSpec((None, part, 2), of_queries),
                pl.BlockSpec((None, part, channels), of_queries),
                pl.BlockSpec((None, None, block, c), of_read_keys),
                pl.BlockSpec((None, None, block, channels), of_read_keys),
            ],
            out_specs=[
                pl.BlockSpec((None, part, c), of_queries),
                pl.BlockSpec((None, None, None, block, c), of_keys),
                pl.BlockSpec((None, None, None, block, channels), of_keys),
            ],
            scratch_shapes=[pltpu.VMEM((block, c), jnp.float32), pltpu.VMEM((block, channels), jnp.float32)],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct((b, parts, *keys.shape[1:]), keys.dtype),
            jax.ShapeDtypeStruct((b, parts, *values.shape[1:]), values.dtype),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * logits * (3 * c + 2 * channels),
            transcendentals=logits,
            bytes_accessed=2 * (keys.size + values.size) * keys.dtype.itemsize + 3 * q.size * q.dtype.itemsize,
        ),
    )(exist, q, sums, gradient, keys, values)
    return d_q, _added(d_keys), _added(d_values)


def _added(of_parts: Float[Array, "b parts maps n c"]) -> Float[Array, "b maps n c"]:
    """The sum of what the parts of the queries have in a gradient."""
    if of_parts.shape[1] == 1:
        return of_parts[:, 0]
    return of_parts.astype(jnp.float32).sum(axis=1).astype(of_parts.dtype)


def _differentiate(
    exist,
    q_ref,
    sums_ref,
    gradient_ref,
    keys_ref,
    values_ref,
    d_q_ref,
    d_keys_ref,
    d_values_ref,
    keys_sum_ref,
    values_sum_ref,
    *,
    queries: int,
) -> None:
    """The kernel: a part of an object's queries, and a block of one map's keys."""
    i, number, block = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    part, c = q_ref.shape
    scale = 1 / math.sqrt(c)

    @pl.when((number == 0) & (block == 0))
    def begin():
        d_q_ref[...] = jnp.zeros_like(d_q_ref)

    keys_sum_ref[...] = jnp.zeros_like(keys_sum_ref)
    values_sum_ref[...] = jnp.zeros_like(values_sum_ref)

    @pl.when(exist[i, number] > 0)
    def add_the_block():
        def add(index, carry):
            rows = pl.ds(pl.multiple_of(index * queries, queries), queries)
            query, gradient = q_ref[rows, :], gradient_ref[rows, :]
            logits = product(query, keys_ref[...], contract=(1, 1)) * scale
            weights = jnp.exp(logits - sums_ref[rows, :1])
            d_weights = product(gradient, values_ref[...], contract=(1, 1))
            d_logits = (weights * (d_weights - sums_ref[rows, 1:]) * scale).astype(query.dtype)
            values_sum_ref[...] += product(weights.astype(gradient.dtype), gradient, contract=(0, 0))
            keys_sum_ref[...] += product(d_logits, query, contract=(0, 0))
            d_q_ref[rows, :] += product(d_logits, keys_ref[...], contract=(1, 0))
            return carry

        jax.lax.fori_loop(0, part // queries, add, 0)

    d_keys_ref[...] = keys_sum_ref[...].astype(d_keys_ref.dtype)
    d_values_ref[...] = values_sum_ref[...].astype(d_values_ref.dtype)
