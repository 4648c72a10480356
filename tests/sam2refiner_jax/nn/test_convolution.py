"""Convolutions and their gradients against PyTorch's, in loops and outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from official import nchw, relative_error, to_torch

from sam2refiner_jax.nn.convolution import convolve_depthwise
from sam2refiner_jax.nn.layers import conv

# Height, width, channels in and out, kernel, stride, padding.
CASES = {
    "3x3": (9, 12, 5, 7, (3, 3), 1, 1),
    "1x1": (6, 6, 4, 3, (1, 1), 1, 0),
    "stride 2, an even side": (10, 14, 3, 4, (3, 3), 2, 1),
    "stride 2, an odd side": (11, 7, 3, 4, (3, 3), 2, 1),
    "a row": (5, 8, 3, 2, (1, 7), 1, (0, 3)),
    "patches with a rest": (17, 19, 3, 6, (7, 7), 4, 3),
    "patches side by side": (8, 8, 1, 2, (4, 4), 4, 0),
}


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_and_its_gradients_equal_pytorch(case, looped):
    height, width, c, n, size, stride, padding = case
    rng = np.random.default_rng(0)
    layer = conv(c, n, size, stride=stride, padding=padding, dtype=jnp.float32, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(layer)
    weights = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), weights)
    maps = jnp.asarray(rng.normal(size=(2, 2, height, width, c)), jnp.float32)
    rows = jnp.cos(jnp.arange(1000.0))

    def loss(weights, maps):
        def of_one(x):
            out = nnx.merge(graph, weights)(x)
            return (out * rows[: out.shape[2], None] * (1 + rows[: out.shape[3]])).sum(), out

        losses, outs = jax.lax.map(of_one, maps) if looped else jax.vmap(of_one)(maps)
        return losses.sum(), outs

    with jax.default_matmul_precision("highest"):
        (_, outs), (of_weights, of_maps) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(weights, maps)

    theirs = torch.nn.Conv2d(c, n, size, stride, padding)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(np.array(weights["kernel"][...])).permute(3, 2, 0, 1))
        theirs.bias.copy_(torch.from_numpy(np.array(weights["bias"][...])))
    images = to_torch(maps.reshape(-1, height, width, c)).requires_grad_()
    out = theirs(images)
    weighted = torch.from_numpy(np.array(rows))
    (out * weighted[: out.shape[3]] * (1 + weighted[:n])[:, None, None]).sum().backward()
    assert relative_error(nchw(outs.reshape(-1, *outs.shape[2:])), out.detach()) < 1e-6
    assert relative_error(nchw(of_maps.reshape(-1, height, width, c)), images.grad) < 1e-6
    kernel = theirs.weight.grad.permute(2, 3, 1, 0)
    assert relative_error(of_weights["kernel"][...], kernel) < 1e-5
    assert relative_error(of_weights["bias"][...], theirs.bias.grad) < 1e-5


def test_a_depthwise_one_and_its_gradients_equal_pytorch():
    rng = np.random.default_rng(0)
    x, kernel, weight = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 9, 12, 5), (7, 7, 1, 5), (2, 9, 12, 5))
    )
    out, pull = jax.vjp(convolve_depthwise, x, kernel)
    of_x, of_kernel = pull(weight)
    maps, taps = (to_torch(a).requires_grad_() for a in (x, kernel.transpose(3, 0, 1, 2)))
    theirs = torch.nn.functional.conv2d(maps, taps, padding=3, groups=5)
    theirs.backward(to_torch(weight))
    assert relative_error(nchw(out), theirs.detach()) < 1e-6
    assert relative_error(nchw(of_x), maps.grad) < 1e-6
    assert relative_error(nchw(of_kernel.transpose(3, 0, 1, 2)), taps.grad) < 1e-6
