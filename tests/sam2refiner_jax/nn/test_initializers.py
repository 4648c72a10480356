"""Numbers drawn on the host are distributed as JAX's own initialisers distribute theirs."""

import jax
import numpy as np
import pytest
import torch

from sam2refiner_jax.nn.initializers import NoKeys, fan_in_uniform, normal, truncated_normal

INITIALIZERS = [
    (normal(0.5), jax.nn.initializers.normal(0.5)),
    (truncated_normal(0.02), jax.nn.initializers.truncated_normal(0.02)),
    (fan_in_uniform(), jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")),
]
QUANTILES = np.linspace(0, 1, 41)[1:-1]


@pytest.mark.parametrize(("ours", "jaxs"), INITIALIZERS, ids=["normal", "truncated", "uniform"])
def test_distribution_equals_jax(ours, jaxs):
    shape = (3, 3, 80, 200)
    expected = np.asarray(jaxs(jax.random.key(1), shape))
    for initialize in (ours, jax.jit(ours, static_argnums=1)):  # drawn on the host, and under a trace
        numbers = np.asarray(initialize(jax.random.key(0), shape))
        assert numbers.dtype == np.float32
        assert abs(numbers.mean()) < 0.01 * expected.std()
        assert numbers.std() == pytest.approx(expected.std(), rel=0.01)
        assert np.abs(numbers).max() == pytest.approx(np.abs(expected).max(), rel=0.15)
        difference = np.quantile(numbers, QUANTILES) - np.quantile(expected, QUANTILES)
        assert np.abs(difference).max() < 0.02 * expected.std()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(torch.nn.Linear(300, 500), (300, 500)), (torch.nn.Conv2d(80, 200, 3), (3, 3, 80, 200))],
    ids=["linear", "convolution"],
)
def test_kernels_are_distributed_as_pytorchs(layer, shape):
    numbers = np.asarray(fan_in_uniform()(jax.random.key(0), shape))
    expected = layer.weight.detach().numpy()
    difference = np.quantile(numbers, QUANTILES) - np.quantile(expected, QUANTILES)
    assert np.abs(difference).max() < 0.02 * expected.std()
    assert np.abs(numbers).max() == pytest.approx(np.abs(expected).max(), rel=1e-3)


def test_without_keys_nothing_is_drawn():
    kernel = fan_in_uniform()(NoKeys().params(), (3, 4), "bfloat16")
    assert kernel.dtype == "bfloat16"
    np.testing.assert_array_equal(kernel, np.zeros((3, 4)))


def test_keys_decide():
    initialize = fan_in_uniform()
    a, again, b = (np.asarray(initialize(jax.random.key(seed), (40, 50))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


def test_a_trace_draws_anew_every_time():
    """Compiled once, it must not have kept the numbers of its first key."""
    draw = jax.jit(lambda key: normal(1.0)(key, (4, 5)))
    assert np.abs(draw(jax.random.key(0)) - draw(jax.random.key(1))).max() > 0.1


def test_a_new_shape_compiles_nothing(caplog):
    def compilations(initializers, shape):
        caplog.clear()
        with jax.log_compiles():
            for initialize in initializers:
                initialize(jax.random.key(0), shape)
        return [record.message for record in caplog.records if "Compiling" in record.message]

    ours, jaxs = zip(*INITIALIZERS, strict=True)
    compilations(ours, (2, 3))  # what reads a key
    assert compilations(ours, (5, 7, 11)) == []
    assert compilations(jaxs, (5, 7, 11)) != []
