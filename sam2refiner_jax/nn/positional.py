"""Positional encodings (`sam2.modeling.position_encoding`)."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from .initializers import normal
from .layers import Buffer

__all__ = ["RandomPositionEncoding", "sine_encoding_1d", "sine_encoding_2d", "sine_encoding_of_cells"]


class RandomPositionEncoding(nnx.Module):
    """Random Fourier features of a place in the image (https://arxiv.org/abs/2006.10739).

    Args:
      dim: channels, an even number: sines, then as many cosines.
      rngs: key of the random frequencies.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.positional_encoding_gaussian_matrix = Buffer(normal(1.0)(rngs.params(), (2, dim // 2)))

    def __call__(self, xy: Float[Array | np.ndarray, "*batch 2"]) -> Float[Array, "*batch c"]:
        """The code of places `xy`, each coordinate in [0, 1] of the image's width and height."""
        matrix = self.positional_encoding_gaussian_matrix[...]
        angle = 2 * jnp.pi * ((2 * xy - 1) @ matrix)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

    def grid(self, height: int, width: int) -> Float[Array, "{height} {width} c"]:
        """The codes of the pixel centres of a map."""
        x = (jnp.arange(width, dtype=jnp.float32) + 0.5) / width
        y = (jnp.arange(height, dtype=jnp.float32) + 0.5) / height
        return self(jnp.stack(jnp.meshgrid(x, y), axis=-1))


def _inverse_frequencies(dim: int, temperature: float) -> Float[Array, " {dim}"]:
    """Periods of a sine encoding, each twice: 1 for the sine and 1 for the cosine."""
    pair = jnp.arange(dim) // 2
    return temperature ** (2 * pair.astype(jnp.float32) / dim)


def sine_encoding_2d(
    height: int, width: int, dim: int, *, temperature: float = 10000.0
) -> Float[Array, "{height} {width} {dim}"]:
    """DETR's normalised sine encoding: the first half of the channels codes y, the second x."""

    def position(n: int):
        return jnp.arange(1, n + 1, dtype=jnp.float32) / (n + 1e-6) * (2 * math.pi)

    return _sine_encoding(position(height), position(width), dim, temperature)


def sine_encoding_of_cells(
    height: int, width: int, dim: int, *, scale: float = 2 * math.pi, temperature: float = 10000.0
) -> Float[Array, "{height} {width} {dim}"]:
    """The same code at the centres of a map's cells: one place in the image has one code whatever the map's size.

    Args:
      height: rows of the map.
      width: its columns.
      dim: channels.
      scale: the angle of the fastest sine, in radians, from one edge of the image to the other.
      temperature: the slowest sine is slower by this factor.
    """

    def position(n: int):
        return (jnp.arange(n, dtype=jnp.float32) + 0.5) / n * scale

    return _sine_encoding(position(height), position(width), dim, temperature)


def _sine_encoding(
    y: Float[Array, " h"], x: Float[Array, " w"], dim: int, temperature: float
) -> Float[Array, "h w {dim}"]:
    """Codes of the grid of places `y` and `x`, which are angles of the fastest sine."""

    def encode(position):
        angle = position[:, None] / _inverse_frequencies(dim // 2, temperature)
        return jnp.stack([jnp.sin(angle[:, 0::2]), jnp.cos(angle[:, 1::2])], axis=-1).reshape(len(position), dim // 2)

    shape = (len(y), len(x), dim // 2)
    rows, columns = jnp.broadcast_to(encode(y)[:, None], shape), jnp.broadcast_to(encode(x)[None, :], shape)
    return jnp.concatenate([rows, columns], axis=-1)


def sine_encoding_1d(
    position: Float[Array | np.ndarray, "*n"] | Int[Array | np.ndarray, "*n"], dim: int, *, temperature: float = 10000.0
) -> Float[Array, "*n {dim}"]:
    """The original Transformer's encoding of scalar positions: sines, then cosines."""
    angle = position[..., None] / _inverse_frequencies(dim // 2, temperature)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
