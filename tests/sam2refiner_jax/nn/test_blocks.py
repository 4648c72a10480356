"""Convolutions of maps in blocks against PyTorch's of maps in pixels, with their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from sam2refiner_jax.nn.blocks import conv3x3_from_blocks, conv3x3_to_blocks, from_blocks, to_blocks
from sam2refiner_jax.nn.layers import UpConv2x2, conv

CHANNELS_IN, CHANNELS_OUT = 3, 5


@pytest.fixture(scope="module")
def layer():
    layer = conv(CHANNELS_IN, CHANNELS_OUT, 3, padding=1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.bias.set_value(jax.random.normal(jax.random.key(1), (CHANNELS_OUT,)))
    return layer


def to_pixels(layer, x):
    return from_blocks(conv3x3_to_blocks(layer, x))


def in_blocks(layer, x):
    return conv3x3_from_blocks(layer, to_blocks(x))


def as_elsewhere(*arguments, cpu, default):
    return default(*arguments)


@pytest.mark.parametrize(("ours", "elsewhere"), [(to_pixels, False), (to_pixels, True), (in_blocks, False)])
def test_convolutions_and_their_gradients_equal_pytorch(ours, elsewhere, layer, monkeypatch):
    """`elsewhere` is the form that other platforms than CPUs take."""
    if elsewhere:
        monkeypatch.setattr(jax.lax, "platform_dependent", as_elsewhere)
    x, weight = (np.asarray(jax.random.normal(jax.random.key(i), (2, 6, 10, c))) for i, c in ((2, 3), (3, 5)))
    graph, state = nnx.split(layer)

    @jax.jit
    def value_and_gradients(state, x):
        def loss(state, x):
            result = ours(nnx.merge(graph, state), x)
            return (result * weight).sum(), result

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(state, x)

    (_, found), (gradients, of_x) = value_and_gradients(state, x)
    theirs = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    kernel = torch.tensor(np.asarray(layer.kernel[...])).permute(3, 2, 0, 1).requires_grad_()
    bias = torch.tensor(np.asarray(layer.bias[...])).requires_grad_()
    expected = torch.nn.functional.conv2d(theirs, kernel, bias, padding=1)
    (expected * torch.tensor(weight).permute(0, 3, 1, 2)).sum().backward()

    def close(mine, other):
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=1e-5, atol=2e-5)

    close(found, expected.permute(0, 2, 3, 1))
    close(gradients["kernel"][...], kernel.grad.permute(2, 3, 1, 0))
    close(gradients["bias"][...], bias.grad)
    close(of_x, theirs.grad.permute(0, 2, 3, 1))


def test_blocks_are_rows_then_columns_and_back():
    x = jnp.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    blocks = to_blocks(x)
    np.testing.assert_array_equal(blocks[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(from_blocks(blocks), x)


def test_an_upscaling_in_blocks_is_the_same():
    layer = UpConv2x2(6, 4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 3, 5, 6))
    np.testing.assert_array_equal(from_blocks(layer.blocks(x)), layer(x))
