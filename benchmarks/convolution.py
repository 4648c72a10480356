"""Gradients of a convolution, in the body of a loop and outside: JAX's own beside those of `nn.convolution`.

    python benchmarks/convolution.py

The layers are of the refiner of `nano` at 256 pixels.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from sam2refiner_jax.nn.convolution import convolve

# Maps, height, width and channels of a layer, and channels that come out.
SHAPES = [((2, 64, 64, 64), 32), ((2, 32, 32, 96), 64)]
STRIDES, PADDING, LAYOUT = (1, 1), [(1, 1), (1, 1)], ("NHWC", "HWIO", "NHWC")
ROUNDS = 3


def of_jax(x, kernel):
    """As layers had it before."""
    return jax.lax.conv_general_dilated(
        x, kernel, STRIDES, PADDING, dimension_numbers=LAYOUT, precision=jax.lax.Precision.HIGHEST
    )


def of_ours(x, kernel):
    """As layers have it now."""
    return convolve(x, kernel, STRIDES, PADDING, precision=jax.lax.Precision.HIGHEST)


def milliseconds(convolution, x, kernel, looped: bool) -> float:
    """Of both gradients, the best of some rounds."""

    def gradients(x, kernel):
        return jax.grad(lambda x, kernel: jnp.sum(convolution(x, kernel) ** 2), argnums=(0, 1))(x, kernel)

    def in_a_loop(x, kernel):
        return jax.lax.map(lambda row: gradients(row, kernel), x[None])

    function = jax.jit(in_a_loop if looped else gradients)
    jax.block_until_ready(function(x, kernel))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(function(x, kernel))
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def main() -> None:
    rng = np.random.default_rng(0)
    for shape, features in SHAPES:
        x = jnp.asarray(rng.normal(size=shape), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(3, 3, shape[-1], features)), jnp.float32)
        for place, looped in (("outside of loops", False), ("in a loop", True)):
            theirs, ours = (milliseconds(f, x, kernel, looped) for f in (of_jax, of_ours))
            print(f"{shape} to {features} channels, {place}: JAX's {theirs:.1f} ms, ours {ours:.1f} ms")


if __name__ == "__main__":
    main()
