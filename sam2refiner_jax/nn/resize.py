"""Resizing of maps with PyTorch's conventions (`align_corners=False`)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = [
    "antialiased_matrix",
    "bilinear_matrix",
    "resize_antialiased",
    "resize_bicubic",
    "resize_bilinear",
    "resize_planes",
    "upsample_nearest_2x",
]

# PyTorch's cubic convolution coefficient; `jax.image.resize` uses -0.5.
CUBIC_COEFFICIENT = -0.75


def _cubic_kernel(x: np.ndarray) -> np.ndarray:
    a, x = CUBIC_COEFFICIENT, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _linear_kernel(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _interpolation_matrix(size_in: int, size_out: int, kernel, radius: int) -> np.ndarray:
    """The (size_out, size_in) matrix of a 1-D resize; taps beyond an edge fall on the edge pixel."""
    position = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    matrix = np.zeros((size_out, size_in))
    first = np.floor(position).astype(int) - radius + 1
    for tap in range(2 * radius):
        source = np.clip(first + tap, 0, size_in - 1)
        np.add.at(matrix, (np.arange(size_out), source), kernel(position - (first + tap)))
    return matrix.astype(np.float32)


def _resize(x, size, kernel, radius):
    rows = _interpolation_matrix(x.shape[1], size[0], kernel, radius)
    columns = _interpolation_matrix(x.shape[2], size[1], kernel, radius)
    x = jnp.einsum("yh,bhwc->bywc", rows.astype(x.dtype), x)
    return jnp.einsum("xw,bywc->byxc", columns.astype(x.dtype), x)


def resize_bicubic(x: Float[Array | np.ndarray, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Bicubic resize to `size` = (height, width), as `torch.nn.functional.interpolate(mode="bicubic")`."""
    return _resize(x, size, _cubic_kernel, 2)


def resize_bilinear(x: Float[Array | np.ndarray, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Bilinear resize to `size` = (height, width), as `torch.nn.functional.interpolate(mode="bilinear")`."""
    return _resize(x, size, _linear_kernel, 1)


def resize_planes(
    x: Float[Array | np.ndarray, "*b h w"], size: tuple[int, int], *, antialias: bool = False
) -> Float[Array, "*b h2 w2"]:
    """`resize_bilinear`, or with `antialias` `resize_antialiased`, of masks, which have no axis of channels."""
    matrix = antialiased_matrix if antialias else bilinear_matrix
    rows, columns = (matrix(*sides).astype(x.dtype) for sides in zip(x.shape[-2:], size, strict=True))
    return jnp.einsum("xw,...yw->...yx", columns, jnp.einsum("yh,...hw->...yw", rows, x))


def bilinear_matrix(size_in: int, size_out: int) -> Float[np.ndarray, "{size_out} {size_in}"]:
    """The matrix of `resize_bilinear` along one side."""
    return _interpolation_matrix(size_in, size_out, _linear_kernel, 1)


def upsample_nearest_2x(x: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Every pixel becomes a 2x2 block."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def antialiased_matrix(size_in: int, size_out: int) -> np.ndarray:
    """The (size_out, size_in) matrix of PyTorch's 1-D bilinear resize with `antialias=True`.

    When it shrinks, the filter widens with the scale; taps beyond an edge are dropped and the others rescaled.
    """
    scale = size_in / size_out
    centre = (np.arange(size_out)[:, None] + 0.5) * scale
    taps = _linear_kernel((np.arange(size_in) + 0.5 - centre) / max(scale, 1.0))
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)


def resize_antialiased(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Bilinear resize to `size` = (height, width) with `antialias=True`."""
    rows = antialiased_matrix(x.shape[1], size[0]).astype(x.dtype)
    columns = antialiased_matrix(x.shape[2], size[1]).astype(x.dtype)
    return jnp.einsum("xw,bywc->byxc", columns, jnp.einsum("yh,bhwc->bywc", rows, x))
