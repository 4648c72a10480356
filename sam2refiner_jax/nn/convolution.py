"""Convolutions whose gradients have a form that compilers take well."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["convolve", "convolve_depthwise"]

LAYOUT = ("NHWC", "HWIO", "NHWC")
Pairs = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ n"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    precision: Any = None,
    **options: Any,
) -> Float[Array, "b _ _ n"]:
    """`jax.lax.conv_general_dilated` of maps, whose gradients CPUs get in the form of a forward pass.

    JAX's own have their axes in another order. Outside of loops the compiler for CPUs changes that; in the body of one
    (`jax.lax.scan`, `map`) it does not, and computes gradients 10 to 120 times as slowly.

    Args:
      x: the maps.
      kernel: the kernel.
      strides: vertical and horizontal.
      padding: above and below, left and right.
      lhs_dilation: as there. With dilation or groups, gradients are JAX's everywhere.
      rhs_dilation: likewise.
      feature_group_count: likewise.
      precision: as there; also that of the gradients.
      **options: other arguments that are there; maps are NHWC, kernels HWIO.
    """
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # gradients come later
    options = {key: value for key, value in options.items() if value is not None and key != "dimension_numbers"}
    if options or feature_group_count > 1 or {*lhs_dilation, *rhs_dilation} != {1}:
        options |= {"lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
        options["feature_group_count"] = feature_group_count
        return _forward(x, kernel, strides, padding, precision, **options)
    (above, below), (left, right) = padding
    return _convolve(x, kernel, tuple(strides), ((above, below), (left, right)), precision)


def _forward(
    x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], precision: Any, **options: Any
) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=LAYOUT, precision=precision, **options
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Pairs, precision: Any) -> Array:
    return _forward(x, kernel, strides, padding, precision)


def _keep(x: Array, kernel: Array, strides: Sequence[int], padding: Pairs, precision: Any) -> tuple[Array, Any]:
    return _forward(x, kernel, strides, padding, precision), (x, kernel)


def _gradients(strides: Sequence[int], padding: Pairs, precision: Any, kept: Any, g: Array) -> tuple[Array, Array]:
    def as_jax_does(x, kernel, g):
        return jax.vjp(lambda x, kernel: _forward(x, kernel, strides, padding, precision), x, kernel)[1](g)

    def as_forward_passes(x, kernel, g):
        # Without the barriers, the compiler takes the transpositions for orders of axes again.
        sides = tuple(zip(x.shape[1:3], kernel.shape[:2], g.shape[1:3], strides, padding, strict=True))
        spread = [(out - 1) * stride + 1 for _, _, out, stride, _ in sides]
        before = [tap - 1 - low for _, tap, _, _, (low, _) in sides]
        after = [n + tap - 1 - d - b for (n, tap, *_), d, b in zip(sides, spread, before, strict=True)]
        turned = jax.lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
        of_x = _forward(g, turned, (1, 1), tuple(zip(before, after, strict=True)), precision, lhs_dilation=strides)
        around = tuple((low, tap + d - 1 - n - low) for (n, tap, _, _, (low, _)), d in zip(sides, spread, strict=True))
        maps, weights = jax.lax.optimization_barrier((x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)))
        of_kernel = _forward(maps, weights, (1, 1), around, precision, rhs_dilation=strides)
        return of_x, of_kernel.transpose(1, 2, 0, 3)

    return jax.lax.platform_dependent(*kept, g, cpu=as_forward_passes, default=as_jax_does)


_convolve.defvjp(_keep, _gradients)


@jax.custom_vjp
def convolve_depthwise(x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"]) -> Float[Array, "b h w c"]:
    """A convolution that keeps the channels apart and the map's size; the side of the kernel is odd.

    JAX's gradient of the kernel is a convolution of maps as large as they are, which takes the compiler for TPUs a
    minute of a core. Here it is a sum of products for each tap, a row of taps at a time.
    """
    return _forward(x, kernel, (1, 1), ((kernel.shape[0] // 2,) * 2,) * 2, None, feature_group_count=x.shape[-1])


def _keep_depthwise(x: Array, kernel: Array) -> tuple[Array, Any]:
    return convolve_depthwise(x, kernel), (x, kernel)


def _depthwise_gradients(kept: Any, g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    side, (height, width) = kernel.shape[0], x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    multiply = functools.partial(jnp.einsum, "bhwc,bhwc->c", preferred_element_type=jnp.float32)

    def row_of_taps(_, i):
        rows = jax.lax.dynamic_slice_in_dim(padded, i, height, axis=1)
        taps = [multiply(rows[:, :, j : j + width], g) for j in range(side)]
        return None, jnp.stack(taps)

    _, of_kernel = jax.lax.scan(row_of_taps, None, jnp.arange(side))
    return convolve_depthwise(g, kernel[::-1, ::-1]), of_kernel[:, :, None].astype(kernel.dtype)


convolve_depthwise.defvjp(_keep_depthwise, _depthwise_gradients)
