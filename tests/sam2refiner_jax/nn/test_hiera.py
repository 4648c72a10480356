import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam2refiner_jax.nn.hiera import lay_out
from sam2refiner_jax.nn.windows import _max_pool_by_windows, max_pool_2x2


@pytest.mark.parametrize(
    ("shape", "order"),
    [((1, 256, 256, 144), "[2, 3, 1, 0]"), ((1, 64, 64, 576), "[3, 2, 1, 0]"), ((1, 32, 32, 1152), "[3, 2, 1, 0]")],
)
def test_maps_lie_on_tpus_as_takes_less_padding(shape, order):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    lowered = jax.jit(lay_out).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert "LayoutConstraint" in lowered
    assert f"result_layouts = [dense<{order}>" in lowered
    assert "LayoutConstraint" not in jax.jit(lay_out).lower(x).as_text()


def test_both_forms_of_pooling_are_equal():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8, 5)), jnp.bfloat16)
    np.testing.assert_array_equal(jax.jit(_max_pool_by_windows)(x), jax.jit(max_pool_2x2)(x))


def test_a_float32_trunk_imports_no_kernels():
    code = """
import sys, jax
from flax import nnx
from sam2refiner_jax.config import HieraConfig
from sam2refiner_jax.nn.hiera import Hiera

trunk = nnx.eval_shape(lambda: Hiera(HieraConfig(embed_dim=8), dtype="float32", rngs=nnx.Rngs(0)))
jax.eval_shape(lambda trunk, x: trunk(x), trunk, jax.ShapeDtypeStruct((1, 128, 128, 3), "float32"))
assert "jax.experimental.pallas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
