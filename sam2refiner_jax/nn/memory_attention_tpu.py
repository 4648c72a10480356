"""Attention to memories for TPUs: a Pallas kernel that writes neither logits nor keys to memory.

Keys are made of a memory where they are used: the projection of 64 channels costs less than reading 256. Logits of a
block of queries and keys stay on the chip, with the highest so far and sums relative to it (the online softmax of
https://arxiv.org/abs/2205.14135). Maps that do not exist are neither read nor computed with. Gradients have a kernel of
their own (`memory_gradients_tpu`), which wants the logarithm of the sum of each query's exponentials.

Of several chips each runs the kernel for its own objects; see `attention_tpu`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from .attention_tpu import LANES, largest_block, product
from .memory_averages import NO_LOGIT, Memory, keys_of
from .memory_gradients_tpu import gradients_of_maps, gradients_of_tokens
from .per_chip import on_every_chip
from .rotary import Rotations, project, rotate

__all__ = ["average", "has_blocks"]

# Largest parts of a map's places that are in fast memory at a time, and blocks of queries and keys that meet in one
# matrix of logits.
PART, QUERIES, KEYS = 4096, 512, 1024
# Fast memory that the kernel may have: a half of its largest program at 1024 pixels is rotations and sums.
VMEM_BYTES = 48 * 2**20

Weights = tuple[Float[Array, "cm c"], Float[Array, " c"]]


def has_blocks(places: int) -> bool:
    """Whether maps of so many places divide into whole registers."""
    return places % LANES == 0


def average(
    q: Float[Array, "b n c"], memory: Memory, key_weights: Weights, rotations: Rotations
) -> Float[Array, "b n cm"]:
    """The memories' values averaged with attention's weights; 0 where there is nothing to attend to.

    Args:
      q: queries with their rotary code, the channels of pairs apart.
      memory: what to attend to.
      key_weights: weights and biases of the projection to keys, the channels of pairs apart.
      rotations: of the maps' places.
    """
    exist = memory.maps_exist.astype(jnp.int32)
    weight = jnp.ones(exist.shape) if memory.maps_weight is None else memory.maps_weight
    return on_every_chip(
        _average,
        q,
        memory.maps,
        memory.maps_pe,
        exist,
        weight.astype(jnp.float32),
        memory.pointers,
        memory.pointers_pe,
        memory.pointers_exist.astype(jnp.int32),
        shared=(*key_weights, *rotations),
    )


@jax.custom_vjp
def _average(*arrays):
    return _averages(*arrays, with_logarithms=False)[0]


def _averages(
    q,
    maps,
    maps_pe,
    exist,
    weight,
    pointers,
    pointers_pe,
    pointers_exist,
    kernel,
    bias,
    cos,
    sin,
    *,
    with_logarithms: bool,
):
    """The averages, and of each query, if asked for, the logarithm of its sum of exponentials: (b, n, 1), float32."""
    dtype = q.dtype
    b, n, c = q.shape
    count, channels = maps.shape[1], maps.shape[-1]
    pointer_keys = project(pointers + pointers_pe, (kernel, bias), dtype)
    part = largest_block(n, PART)
    parts = n // part

    # Floor division would look for the sign, on a chip that need not be there.
    def of_queries(i, query, key, *_):
        return i, query, 0

    def of_keys(i, query, key, exist, last, weight):
        return i, last[i, jax.lax.div(key, parts)], jax.lax.rem(key, parts), 0

    def of_places(i, query, key, *_):
        return jax.lax.rem(key, parts), 0

    def of_object(i, *_):
        return i, 0, 0

    def whole(*_):
        return 0, 0

    tokens = pointers.shape[1]
    logits = b * n * (count * n + tokens)
    out = [jax.ShapeDtypeStruct((b, n, channels), maps.dtype)]
    if with_logarithms:
        out.append(jax.ShapeDtypeStruct((b, n, 1), jnp.float32))
    return pl.pallas_call(
        functools.partial(
            _attend if with_logarithms else _attend_alone,
            queries=largest_block(part, QUERIES),
            keys=largest_block(part, KEYS),
            parts=parts,
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(b, parts, count * parts),
            in_specs=[
                pl.BlockSpec((None, part, c), of_queries),
                pl.BlockSpec((None, None, part, channels), of_keys),
                pl.BlockSpec((None, None, part, channels), of_keys),
                pl.BlockSpec((channels, c), whole),
                pl.BlockSpec((1, c), whole),
                pl.BlockSpec((part, c // 2), of_places),
                pl.BlockSpec((part, c // 2), of_places),
                pl.BlockSpec((None, tokens, c), of_object),
                pl.BlockSpec((None, tokens, channels), of_object),
                pl.BlockSpec((None, 1, tokens), of_object),
            ],
            out_specs=[pl.BlockSpec((None, part, x.shape[-1]), of_queries) for x in out],
            scratch_shapes=[
                pltpu.VMEM((part, c), dtype),
                pltpu.VMEM((part, 1), jnp.float32),
                pltpu.VMEM((part, 1), jnp.float32),
                pltpu.VMEM((part, channels), jnp.float32),
            ],
        ),
        out_shape=out,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * logits * (c + channels) + 2 * b * parts * count * n * channels * c,
            transcendentals=logits,
            bytes_accessed=2 * maps.size * maps.dtype.itemsize + 2 * q.size * q.dtype.itemsize,
        ),
    )(
        exist,
        _last_existing(exist),
        weight,
        q,
        (maps + maps_pe).astype(dtype),
        maps,
        kernel.astype(dtype),
        bias.astype(dtype)[None],
        cos,
        sin,
        pointer_keys,
        pointers,
        pointers_exist[:, None],
    )


def _average_forward(*arrays):
    averages, logarithms = _averages(*arrays, with_logarithms=True)
    return averages, (arrays, averages, logarithms)


def _average_backward(residuals, gradient):
    arrays, averages, logarithms = residuals
    q, maps, maps_pe, exist, weight, pointers, pointers_pe, pointers_exist, kernel, bias, cos, sin = arrays

    def make_keys(maps, maps_pe, weight, pointers, pointers_pe, kernel, bias):
        memory = Memory(maps, maps_pe, exist > 0, pointers, pointers_pe, pointers_exist > 0, weight)
        return keys_of(memory, (kernel, bias), (cos, sin), q.dtype)

    (keys, pointer_keys), pull = jax.vjp(make_keys, maps, maps_pe, weight, pointers, pointers_pe, kernel, bias)
    inner = (gradient.astype(jnp.float32) * averages.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    sums = jnp.concatenate([logarithms, inner], axis=-1)
    d_q, d_keys, d_values = gradients_of_maps(q, keys, maps, exist, sums, gradient)
    more_of_q, d_pointer_keys, d_pointer_values = gradients_of_tokens(
        q, pointer_keys, pointers, pointers_exist > 0, sums, gradient
    )
    d_maps, d_maps_pe, d_weight, d_pointers, d_pointers_pe, d_kernel, d_bias = pull((d_keys, d_pointer_keys))
    d_q = (d_q + more_of_q).astype(q.dtype)
    d_maps, d_pointers = d_maps + d_values, d_pointers + d_pointer_values
    return d_q, d_maps, d_maps_pe, None, d_weight, d_pointers, d_pointers_pe, None, d_kernel, d_bias, None, None


_average.defvjp(_average_forward, _average_backward)


def _last_existing(exist: Array) -> Array:
    """For each map the last one that exists up to it: where it does not, the map at hand is not replaced."""
    number = jnp.where(exist > 0, jnp.arange(exist.shape[1], dtype=jnp.int32), 0)
    return jax.lax.cummax(number, axis=1)


def _attend_alone(*refs: Any, queries: int, keys: int, parts: int) -> None:
    """`_attend` without logarithms: its last four references are scratch."""
    given = [*refs[:-4], None, *refs[-4:]]
    _attend(*given, queries=queries, keys=keys, parts=parts)


def _attend(
    exist,
    last,
    weight,
    q_ref,
    keyed_ref,
    values_ref,
    kernel_ref,
    bias_ref,
    cos_ref,
    sin_ref,
    pointer_keys_ref,
    pointers_ref,
    pointers_exist_ref,
    out_ref,
    logarithm_ref,
    map_keys_ref,
    highest_ref,
    total_ref,
    sum_ref,
    *,
    queries: int,
    keys: int,
    parts: int,
) -> None:
    """The kernel: a part of an object's queries, and a part of one map's keys."""
    i, step = pl.program_id(0), pl.program_id(2)
    number = jax.lax.div(step, parts)
    part, c = q_ref.shape
    scale = 1 / math.sqrt(c)

    def block_of(index, size):
        return pl.ds(pl.multiple_of(index * size, size), size)

    @pl.when(step == 0)
    def begin_with_pointers():
        exists = pointers_exist_ref[...] > 0

        def begin(index, carry):
            rows = block_of(index, queries)
            logits = product(q_ref[rows, :], pointer_keys_ref[...], contract=(1, 1)) * scale
            logits = jnp.where(exists, logits, NO_LOGIT)
            highest = logits.max(axis=1, keepdims=True)
            weights = jnp.where(exists, jnp.exp(logits - highest), 0.0)
            highest_ref[rows, :] = highest
            total_ref[rows, :] = weights.sum(axis=1, keepdims=True)
            sum_ref[rows, :] = product(weights.astype(pointers_ref.dtype), pointers_ref[...], contract=(1, 0))
            return carry

        jax.lax.fori_loop(0, part // queries, begin, 0)

    @pl.when(exist[i, number] > 0)
    def add_the_map():
        factor = weight[i, number].astype(map_keys_ref.dtype)

        def make_keys(index, carry):
            rows = block_of(index, keys)
            made = product(keyed_ref[rows, :], kernel_ref[...], contract=(1, 0)).astype(bias_ref.dtype) + bias_ref[...]
            map_keys_ref[rows, :] = rotate(made, (cos_ref[rows, :], sin_ref[rows, :])) * factor
            return carry

        jax.lax.fori_loop(0, part // keys, make_keys, 0)

        def add(index, carry):
            rows = block_of(index, queries)
            query = q_ref[rows, :]
            highest, total, sums = highest_ref[rows, :], total_ref[rows, :], sum_ref[rows, :]
            for start in range(0, part, keys):
                logits = product(query, map_keys_ref[start : start + keys, :], contract=(1, 1)) * scale
                higher = jnp.maximum(highest, logits.max(axis=1, keepdims=True))
                weights, shrink = jnp.exp(logits - higher), jnp.exp(highest - higher)
                values = values_ref[start : start + keys, :]
                total = total * shrink + weights.sum(axis=1, keepdims=True)
                sums = sums * shrink + product(weights.astype(values.dtype), values, contract=(1, 0))
                highest = higher
            highest_ref[rows, :], total_ref[rows, :], sum_ref[rows, :] = highest, total, sums
            return carry

        jax.lax.fori_loop(0, part // queries, add, 0)

    @pl.when(step == pl.num_programs(2) - 1)
    def finish():
        def divide(index, carry):
            rows = block_of(index, queries)
            total = jnp.where(total_ref[rows, :] > 0, total_ref[rows, :], 1.0)
            out_ref[rows, :] = (sum_ref[rows, :] / total).astype(out_ref.dtype)
            if logarithm_ref is not None:
                logarithm_ref[rows, :] = highest_ref[rows, :] + jnp.log(total)
            return carry

        jax.lax.fori_loop(0, part // queries, divide, 0)
