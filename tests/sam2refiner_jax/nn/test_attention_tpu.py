"""The TPU's kernels, interpreted, against the plain form; and what is lowered and compiled for TPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from official import relative_error

from sam2refiner_jax.nn import attention_tpu
from sam2refiner_jax.nn.attention import attend_in_windows, dot_product_attention, map_attention, plain_attention
from sam2refiner_jax.nn.per_chip import divides_over_mesh

# Side of the map, heads, their channels, side of a window, whether queries are pooled.
MAPS = {
    "8x8, two windows a block": (32, 2, 12, 8, False),
    "4x4, eight windows a block": (32, 2, 12, 4, False),
    "16x16, one window a block": (32, 2, 72, 16, False),
    "8x8 pooled": (32, 2, 12, 8, True),
    "4x4 pooled": (32, 2, 12, 4, True),
    "14x14 pooled, cut out": (28, 2, 12, 14, True),
    "7x7, cut out": (14, 3, 8, 7, False),
}
# Queries, keys, whether some are masked: from less than one register to more than one block.
SEQUENCES = [(8, 8, False), (100, 300, True), (7, 4097, True), (1100, 128, False)]


def random_map(case, dtype=jnp.float32):
    side, heads, channels, window, pool = case
    qkv = np.random.default_rng(0).normal(size=(2, side, side, 3 * heads * channels))
    return jnp.asarray(qkv, dtype), {"num_heads": heads, "window": window, "pool": pool}


def random_sequences(queries, keys, dtype=jnp.float32, heads=2, channels=24):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, n, heads, channels)), dtype) for n in (queries, keys, keys))
    mask = rng.random((2, keys)) < 0.7
    mask[:, 0] = True
    return q, k, v, jnp.asarray(mask)


def gradients(function, *arrays):
    """Of a loss that weighs every element of the result differently."""

    def loss(*arrays):
        out = function(*arrays)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

    return jax.jit(jax.grad(loss, argnums=tuple(range(len(arrays)))))(*arrays)


@pytest.mark.parametrize("case", MAPS.values(), ids=MAPS)
def test_windows_equal_the_plain_form(case):
    qkv, arguments = random_map(case)
    expected = attend_in_windows(plain_attention, qkv, **arguments)
    with pltpu.force_tpu_interpret_mode():
        ours = jax.jit(functools.partial(attention_tpu.map_attention, **arguments))(qkv)
    assert relative_error(ours, expected) < 1e-5


def test_gradients_of_windows_equal_the_plain_form():
    qkv, arguments = random_map(MAPS["8x8 pooled"])
    (expected,) = gradients(functools.partial(attend_in_windows, plain_attention, **arguments), qkv)
    with pltpu.force_tpu_interpret_mode():
        (ours,) = gradients(functools.partial(attention_tpu.map_attention, **arguments), qkv)
    assert relative_error(ours, expected) < 1e-5


def test_windows_in_bfloat16_stay_near_float32():
    qkv, arguments = random_map(MAPS["4x4, eight windows a block"], jnp.bfloat16)
    exact = attend_in_windows(plain_attention, qkv.astype(jnp.float32), **arguments)
    with pltpu.force_tpu_interpret_mode():
        ours = jax.jit(functools.partial(attention_tpu.map_attention, **arguments))(qkv)
    assert ours.dtype == jnp.bfloat16
    assert relative_error(ours.astype(jnp.float32), exact) < 0.01


@pytest.mark.parametrize(("queries", "keys", "masked"), SEQUENCES)
def test_long_sequences_equal_the_plain_form(queries, keys, masked):
    q, k, v, mask = random_sequences(queries, keys)
    mask = mask if masked else None
    with pltpu.force_tpu_interpret_mode():
        ours = jax.jit(attention_tpu.long_attention)(q, k, v, mask)
    assert relative_error(ours, plain_attention(q, k, v, mask)) < 1e-5


@pytest.mark.parametrize(("queries", "keys", "masked"), [(128, 256, False), (150, 300, True)])
def test_gradients_of_long_sequences_equal_the_plain_form(queries, keys, masked):
    q, k, v, mask = random_sequences(queries, keys)
    mask = mask if masked else None
    expected = gradients(lambda q, k, v: plain_attention(q, k, v, mask), q, k, v)
    with pltpu.force_tpu_interpret_mode():
        ours = gradients(lambda q, k, v: attention_tpu.long_attention(q, k, v, mask), q, k, v)
    for ours_of, expected_of in zip(ours, expected, strict=True):
        assert relative_error(ours_of, expected_of) < 1e-5


def test_long_sequences_in_bfloat16_stay_near_float32():
    q, k, v, mask = random_sequences(300, 300, jnp.bfloat16)
    exact = plain_attention(*(x.astype(jnp.float32) for x in (q, k, v)), mask)
    with pltpu.force_tpu_interpret_mode():
        ours = jax.jit(attention_tpu.long_attention)(q, k, v, mask)
    assert ours.dtype == jnp.bfloat16
    assert relative_error(ours.astype(jnp.float32), exact) < 0.01


def lowered_for_tpu(function, *arrays):
    return jax.jit(function).trace(*arrays).lower(lowering_platforms=("tpu",)).as_text()


def test_kernels_are_for_bfloat16_and_for_what_is_long():
    q, k, v, mask = random_sequences(600, 600, jnp.bfloat16)
    attend = lambda q, k, v: dot_product_attention(q, k, v, key_mask=mask)  # noqa: E731
    assert "tpu_custom_call" in lowered_for_tpu(attend, q, k, v)
    assert "tpu_custom_call" not in lowered_for_tpu(attend, *(x.astype(jnp.float32) for x in (q, k, v)))
    assert "tpu_custom_call" not in lowered_for_tpu(attend, q[:, :8], k, v)
    qkv, arguments = random_map(MAPS["8x8, two windows a block"], jnp.bfloat16)
    attend = functools.partial(map_attention, **arguments)
    assert "tpu_custom_call" in lowered_for_tpu(attend, qkv)
    assert "tpu_custom_call" not in lowered_for_tpu(attend, qkv.astype(jnp.float32))
    everywhere = functools.partial(map_attention, num_heads=2, window=None, pool=False)
    assert "tpu_custom_call" in lowered_for_tpu(everywhere, qkv)


def test_programs_for_any_number_of_images_and_all_platforms_take_the_plain_form():
    images = jax.export.symbolic_shape("images")
    qkv = jax.ShapeDtypeStruct((*images, 16, 16, 96), jnp.bfloat16)
    attend = jax.jit(functools.partial(map_attention, num_heads=2, window=8, pool=False))
    exported = jax.export.export(attend, platforms=["cpu", "tpu"])(qkv)
    assert "tpu_custom_call" not in exported.mlir_module()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16, 96)), jnp.bfloat16)
    assert relative_error(exported.call(x).astype(jnp.float32), attend(x).astype(jnp.float32)) < 0.01


def test_a_batch_that_the_chips_do_not_divide_takes_the_plain_form():
    qkv, arguments = random_map(MAPS["8x8, two windows a block"], jnp.bfloat16)
    attend = functools.partial(map_attention, **arguments)
    with jax.sharding.use_abstract_mesh(AbstractMesh((4,), ("data",))):
        assert not divides_over_mesh(2)
        assert divides_over_mesh(8)
        assert "tpu_custom_call" not in lowered_for_tpu(attend, qkv)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (functools.partial(map_attention, num_heads=2, window=8, pool=False), [(8, 32, 32, 432)]),
        (functools.partial(map_attention, num_heads=2, window=14, pool=True), [(8, 28, 28, 432)]),
        (functools.partial(map_attention, num_heads=4, window=4, pool=True), [(8, 64, 64, 3 * 288)]),
        (dot_product_attention, [(8, 1000, 2, 72), (8, 700, 2, 72), (8, 700, 2, 72)]),
    ],
    ids=["windows", "cut out", "pooled", "long"],
)
def test_every_chip_runs_the_kernels_on_its_part_of_the_batch(function, shapes):
    pytest.importorskip("libtpu")
    from sam2refiner_jax.hardware.chips import CHIPS, topology_mesh
    from sam2refiner_jax.hardware.compiled_cost import analyse, compile_uncached

    mesh = topology_mesh("v5e:2x2", {"data": 2, "model": 2})
    sharding = NamedSharding(mesh, PartitionSpec(("data", "model")))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]
    with jax.set_mesh(mesh):
        compiled = compile_uncached(jax.jit(function).lower(*arrays))
    cost = analyse(compiled, CHIPS["v5e"])
    assert "tpu_custom_call" in compiled.as_text()
    assert cost.collectives == ()
    # The kernels' arithmetic counts.
    assert cost.flops > 1e8 / 4
