"""Patches of an image embedded: a strided convolution, for TPUs as products of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["embed_patches"]


def embed_patches(conv: nnx.Conv, image: Float[Array, "b s s channels"]) -> Float[Array, "b h h c"]:
    """The convolution of an image of few channels, in steps that divide its size; padded alike on either side.

    Args:
      conv: a square convolution with a bias.
      image: of any type.
    """
    stride, padding = (int(np.asarray(sizes).flat[0]) for sizes in (conv.strides, conv.padding))
    assert conv.bias is not None

    def by_convolution(image, kernel, bias):
        return conv(image)

    def by_products(image, kernel, bias):
        return products_of_patches(image, kernel, stride=stride, padding=padding) + bias

    kernel, bias = conv.kernel[...].astype(conv.dtype), conv.bias[...].astype(conv.dtype)
    return jax.lax.platform_dependent(image.astype(conv.dtype), kernel, bias, tpu=by_products, default=by_convolution)


def products_of_patches(
    image: Float[Array, "b rows columns channels"],
    kernel: Float[Array, "taps taps channels c"],
    *,
    stride: int,
    padding: int,
) -> Float[Array, "b h w c"]:
    """A convolution whose input has few channels, as two products.

    A TPU stores an image of three channels plane by plane, with columns side by side in its registers; a convolution
    wants every pixel's channels there, which moves every value and fills three places of 128. Here one product with
    ones and zeros, exact, picks the columns that each tap of the kernel meets, and another sums over taps, rows and
    channels, column by column as the maps that follow are stored (`hiera.lay_out`).

    Args:
      image: of sides that `stride` divides.
      kernel: of at most `stride` + `padding` + 1 taps.
      stride: pixels between patches.
      padding: zeros before the image; at most `stride`.
    """
    b, rows, columns, channels = image.shape
    taps, _, _, features = kernel.shape
    out = columns // stride
    column, tap, place = (jax.lax.broadcasted_iota(jnp.int32, (columns, taps, out), axis) for axis in range(3))
    meets = (column == place * stride + tap - padding).astype(image.dtype)
    picked = jnp.einsum("brjc,jtq->brctq", image, meets)
    # Patches begin in the block of rows before theirs: rows of both blocks, of which the kernel has zeros for some.
    blocks = picked.reshape(b, rows // stride, stride * channels * taps, out)
    before = jnp.pad(blocks, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    first = stride - padding
    kernel = jnp.pad(kernel, ((first, 2 * stride - first - taps), (0, 0), (0, 0), (0, 0)))
    kernel = kernel.swapaxes(1, 2).reshape(2 * stride * channels * taps, features)
    return jnp.einsum("bifq,fo->bioq", jnp.concatenate([before, blocks], axis=2), kernel).swapaxes(2, 3)
