"""The TPU's kernel for attention to memories, interpreted, against the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec
from memories import gradients, inputs, plain_average, with_none
from official import relative_error

from sam2refiner_jax.hardware.chips import chip_mesh, chip_of
from sam2refiner_jax.hardware.compiled_cost import analyse, compile_uncached
from sam2refiner_jax.nn import memory_attention_tpu, memory_gradients_tpu
from sam2refiner_jax.nn.memory_averages import Memory
from sam2refiner_jax.nn.rotary import axial_rotations


def by_kernel(*arguments):
    with pltpu.force_tpu_interpret_mode():
        return jax.jit(memory_attention_tpu.average)(*arguments)


@pytest.fixture(params=[(4096, 512, 1024), (128, 128, 128)], ids=["whole maps", "parts of maps"])
def blocks(request, monkeypatch):
    for module in (memory_attention_tpu, memory_gradients_tpu):
        for name, size in zip(("PART", "QUERIES", "KEYS"), request.param, strict=True):
            monkeypatch.setattr(module, name, size)


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_plain_form(blocks, weighted):
    arguments = inputs(weighted=weighted)
    assert relative_error(by_kernel(*arguments), plain_average(*arguments)) < 1e-5


def test_bfloat16_stays_near_float32():
    arguments = inputs(jnp.bfloat16)
    exact = plain_average(*jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, arguments))
    ours = by_kernel(*arguments)
    assert ours.dtype == jnp.bfloat16
    assert relative_error(ours.astype(jnp.float32), exact) < 0.02


def test_without_memories_it_is_zero():
    q, memory, *rest = inputs()
    np.testing.assert_array_equal(by_kernel(q, with_none(memory), *rest), 0)


def test_gradients_equal_the_plain_form(blocks):
    with pltpu.force_tpu_interpret_mode():
        ours = gradients(memory_attention_tpu.average)
    for a, b in zip(ours, gradients(plain_average), strict=True):
        assert relative_error(a, b) < 1e-5


def test_gradients_in_bfloat16_are_as_near_to_float32_as_the_plain_forms():
    with pltpu.force_tpu_interpret_mode():
        ours = gradients(memory_attention_tpu.average, jnp.bfloat16)
    for a, b, exact in zip(ours, gradients(plain_average, jnp.bfloat16), gradients(plain_average), strict=True):
        error, plain_error = (relative_error(x.astype(jnp.float32), exact) for x in (a, b))
        assert error < 1.2 * plain_error, (error, plain_error)


def test_the_gradients_move_no_logits():
    """Compiled for a chip that is not here, which the interpreter's limits are not those of."""
    pytest.importorskip("libtpu")
    b, maps, places, tokens, c, cm = 1, 2, 4096, 16, 256, 64
    chip = chip_of("v5e")
    sharding = NamedSharding(chip_mesh(chip), PartitionSpec())

    def of(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def loss(q, maps, pointers, weights, exist):
        memory = Memory(maps, maps, exist[0], pointers, pointers, exist[1])
        out = memory_attention_tpu.average(q, memory, weights, axial_rotations(64, c))
        return out.astype(jnp.float32).sum()

    lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(
        of((b, places, c)),
        of((b, maps, places, cm)),
        of((b, tokens, cm)),
        (of((cm, c), jnp.float32), of((c,), jnp.float32)),
        (of((b, maps), bool), of((b, tokens), bool)),
    )
    cost = analyse(compile_uncached(lowered), chip)
    logits = 4 * b * places * (maps * places + tokens)
    assert cost.bytes_accessed < 2 * logits
