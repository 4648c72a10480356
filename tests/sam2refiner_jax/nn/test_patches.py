import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from official import relative_error

from sam2refiner_jax.nn.layers import conv
from sam2refiner_jax.nn.patches import embed_patches, products_of_patches


@pytest.mark.parametrize(("taps", "stride", "padding"), [(7, 4, 3), (16, 16, 0), (3, 2, 1)])
def test_products_equal_pytorchs_convolution(taps, stride, padding):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 64, 32, 3)).astype(np.float32)
    kernel = rng.normal(size=(taps, taps, 3, 5)).astype(np.float32)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(image).permute(0, 3, 1, 2),
        torch.from_numpy(kernel).permute(3, 2, 0, 1),
        stride=stride,
        padding=padding,
    ).permute(0, 2, 3, 1)
    ours = jax.jit(products_of_patches, static_argnames=("stride", "padding"))(
        image, kernel, stride=stride, padding=padding
    )
    assert relative_error(ours, expected) < 1e-6


def test_the_chosen_form_has_the_bias_and_the_type():
    layer = conv(3, 8, 7, stride=4, padding=3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(8.0)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    ours = embed_patches(layer, image)
    assert (ours.shape, ours.dtype) == ((1, 8, 8, 8), jnp.bfloat16)
    exact = products_of_patches(image, layer.kernel[...], stride=4, padding=3) + jnp.arange(8.0)
    assert relative_error(ours.astype(jnp.float32), exact) < 0.01
