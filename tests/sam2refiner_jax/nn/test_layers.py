import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from official import nchw, relative_error, to_torch

from sam2refiner_jax.nn.layers import UpConv2x2, gelu, layer_norm
from sam2refiner_jax.nn.windows import max_pool_2x2, merge_windows, pad_to_windows, partition_windows


def test_gelu_is_the_exact_form():
    x = np.linspace(-12, 12, 100_001, dtype=np.float32)
    exact = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(jax.jit(gelu)(x), exact, rtol=2e-6, atol=1e-6)  # as exact as PyTorch in float32


def test_gelu_in_bfloat16_is_the_exact_form_rounded():
    x = jnp.linspace(-12, 12, 10_001).astype(jnp.bfloat16)
    exact = torch.nn.functional.gelu(torch.from_numpy(np.asarray(x, np.float64))).numpy()
    ours = jax.jit(gelu)(x)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=2**-8, atol=1e-6)


def test_up_convolution_equals_pytorch():
    rng = np.random.default_rng(0)
    layer = UpConv2x2(6, 4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.bias.set_value(jnp.asarray(rng.normal(size=4), jnp.float32))
    reference = torch.nn.ConvTranspose2d(6, 4, kernel_size=2, stride=2)
    with torch.no_grad():
        reference.weight.copy_(torch.from_numpy(np.asarray(layer.kernel[...]).transpose(2, 3, 0, 1).copy()))
        reference.bias.copy_(torch.from_numpy(np.asarray(layer.bias[...]).copy()))
        x = rng.normal(size=(2, 5, 3, 6)).astype(np.float32)
        assert relative_error(nchw(layer(jnp.asarray(x))), reference(to_torch(x))) < 1e-6


def test_layer_norm_keeps_its_digits_far_from_zero():
    """A one-pass variance would lose them."""
    x = (1000 + np.random.default_rng(0).normal(size=(4, 64))).astype(np.float32)
    norm = layer_norm(64, epsilon=1e-6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    expected = torch.nn.functional.layer_norm(torch.from_numpy(x).double(), (64,), eps=1e-6)
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(norm, x), expected, atol=2e-4)


def test_layer_norm_in_bfloat16_is_as_good_as_its_input():
    x = jnp.asarray(30 + np.random.default_rng(0).normal(size=(4, 64)), jnp.bfloat16)
    norm = layer_norm(64, epsilon=1e-6, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    exact = torch.nn.functional.layer_norm(torch.from_numpy(np.asarray(x, np.float64)), (64,), eps=1e-6)
    ours = np.asarray(jax.jit(lambda m, x: m(x))(norm, x), np.float64)
    np.testing.assert_allclose(ours, exact, rtol=2**-7, atol=2**-7)


def test_windows_come_back_and_match_official():
    from sam2.modeling.backbones.utils import window_partition

    x = np.random.default_rng(0).normal(size=(2, 10, 13, 3)).astype(np.float32)
    padded = pad_to_windows(jnp.asarray(x), 4)
    windows = partition_windows(padded, 4)
    np.testing.assert_array_equal(windows, window_partition(torch.from_numpy(x), 4)[0])
    np.testing.assert_array_equal(merge_windows(windows, (12, 16)), padded)
    np.testing.assert_array_equal(padded[:, :10, :13], x)


def test_max_pool_equals_pytorch():
    x = np.random.default_rng(0).normal(size=(2, 6, 8, 3)).astype(np.float32)
    expected = torch.nn.functional.max_pool2d(to_torch(x), 2)
    np.testing.assert_array_equal(nchw(max_pool_2x2(jnp.asarray(x))), expected)
