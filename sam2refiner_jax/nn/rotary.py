"""The rotary code of place: pairs of channels turned by angles that grow along a map's columns and rows."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .layers import last_axis_product

__all__ = ["Rotations", "axial_rotations", "project", "rotate", "with_pairs_apart"]

Rotations = tuple[Float[Array, "n pairs"], Float[Array, "n pairs"]]


def axial_rotations(side: int, dim: int, *, theta: float = 10000.0) -> Rotations:
    """Cosines and sines of the rotary encoding of a `side` x `side` map: half the channel pairs code x, half y."""
    frequencies = 1.0 / theta ** (jnp.arange(0, dim, 4)[: dim // 4].astype(jnp.float32) / dim)
    index = jnp.arange(side * side)
    x, y = (index % side).astype(jnp.float32), (index // side).astype(jnp.float32)
    angle = jnp.concatenate([x[:, None] * frequencies, y[:, None] * frequencies], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def with_pairs_apart(layer: nnx.Linear) -> tuple[Float[Array, "c d"], Float[Array, " d"]]:
    """Weights and biases of a layer that gives the first channel of every pair, then the second of every pair.

    Officially pairs are neighbours. Apart, both are turned without moving a value to another channel, which costs a TPU
    more than the turning. Products of queries and keys do not depend on the order, if both have it.
    """
    assert layer.bias is not None
    kernel, bias = layer.kernel[...], layer.bias[...]
    return (
        jnp.concatenate([kernel[:, 0::2], kernel[:, 1::2]], axis=1),
        jnp.concatenate([bias[0::2], bias[1::2]]),
    )


def project(
    x: Float[Array, "*b n c"], weights: tuple[Float[Array, "c d"], Float[Array, " d"]], dtype: DTypeLike
) -> Float[Array, "*b n d"]:
    """A linear layer of these weights, computed in `dtype`."""
    kernel, bias = (part.astype(dtype) for part in weights)
    return last_axis_product(x.astype(dtype), kernel, (((x.ndim - 1,), (0,)), ((), ()))) + bias


def rotate(x: Float[Array, "*b n d"], rotations: Rotations) -> Float[Array, "*b n d"]:
    """Turns each pair of channels by its token's angle, in float32; the pairs are apart."""
    cos, sin = rotations
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.astype(x.dtype)
