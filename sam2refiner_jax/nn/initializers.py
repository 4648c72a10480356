"""Random initialisers that draw on the host.

`jax.random` compiles a program for every shape there is, and a whole model has so many that making it takes half a
minute. NumPy draws the same distributions in a second. Under a trace JAX draws as ever, and without a key (`NoKeys`)
nothing is drawn: for models of which only shapes are wanted.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

__all__ = ["NoKeys", "fan_in_uniform", "normal", "truncated_normal"]

# As Flax and JAX call them: (key, shape, dtype).
Initializer = Callable[..., jax.Array]


class NoKeys(nnx.Rngs):
    """For models of which only shapes are wanted, under `nnx.eval_shape`: tracing random draws takes seconds."""

    def params(self) -> None:
        return None


@functools.cache
def normal(stddev: float) -> Initializer:
    """A normal distribution."""
    return _drawn_on_host(_standard_normal, lambda shape: stddev, jax.nn.initializers.normal(stddev))


@functools.cache
def truncated_normal(stddev: float) -> Initializer:
    """A normal distribution of this standard deviation, cut off at twice of it."""
    return _drawn_on_host(_standard_cut_off, lambda shape: stddev, jax.nn.initializers.truncated_normal(stddev))


@functools.cache
def fan_in_uniform() -> Initializer:
    """For kernels whose last two axes are inputs and outputs: uniform within 1 / sqrt(fan-in), as PyTorch's are.

    A third of the variance that keeps what goes through alike, so that fresh residual branches add little.
    """
    traced = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return _drawn_on_host(_within_one, lambda shape: 1 / math.sqrt(math.prod(shape[:-1])), traced)


def _drawn_on_host(
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
    scale: Callable[[tuple[int, ...]], float],
    traced: Initializer,
) -> Initializer:
    """An initialiser that draws `scale(shape) * draw(...)`; the key seeds it."""

    def initialize(key: jax.Array | None, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        if key is None:
            return jnp.zeros(shape, dtype)
        if isinstance(key, jax.core.Tracer):
            return traced(key, shape, dtype)
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return jax.device_put((np.float32(scale(shape)) * draw(generator, shape)).astype(dtype))

    return initialize


def _standard_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.standard_normal(shape, np.float32)


def _within_one(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return 2 * generator.random(shape, np.float32) - 1


def _standard_cut_off(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A standard normal cut off at -2 and 2: what lies outside is drawn again."""
    numbers = generator.standard_normal(math.prod(shape), np.float32)
    outside = np.flatnonzero(np.abs(numbers) > 2)
    while len(outside):
        numbers[outside] = generator.standard_normal(len(outside), np.float32)
        outside = outside[np.abs(numbers[outside]) > 2]
    return numbers.reshape(shape)
