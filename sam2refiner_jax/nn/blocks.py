"""Maps of few channels, with each 2x2 block of pixels in the channels of one.

Convolutions between a handful of channels at an image's full size leave most of a matrix unit idle, and accelerators
pad each pixel's channels to a row of registers: a TPU's has 128. In blocks there are four times as many channels and a
quarter of the pixels; the numbers are the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["conv3x3_from_blocks", "conv3x3_to_blocks", "from_blocks", "to_blocks"]

# A 3-wide kernel as a 4-wide one of both pixels of a block: tap d of pixel a is at place a + d of the four.
TAPS = np.zeros((4, 2, 3), np.float32)
for _pixel in range(2):
    for _tap in range(3):
        TAPS[_pixel + _tap, _pixel, _tap] = 1


def to_blocks(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c4"]:
    """The map at half its height and width, both even; channels are ordered by row, column and old channel."""
    b, h, w, c = x.shape
    blocks = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(b, h // 2, w // 2, 4 * c)


def from_blocks(x: Float[Array, "b h w c4"]) -> Float[Array, "b h2 w2 c"]:
    """The inverse of `to_blocks`."""
    b, h, w, c = x.shape
    pixels = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(b, 2 * h, 2 * w, c // 4)


def conv3x3_to_blocks(layer: nnx.Conv, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 k4"]:
    """A 3x3 convolution with stride and padding 1, such as `layers.conv` makes, whose result is in blocks.

    It is one of 4x4 pixels with stride 2. CPUs take it as a product of matrices: their compiler has no quick form for
    the gradient of a kernel that has passed over so large a map.
    """
    k = layer.kernel.shape[3]
    kernel = jnp.einsum("yad,xbe,deio->yxiabo", TAPS, TAPS, layer.kernel[...]).reshape(4, 4, -1, 4 * k)
    assert layer.bias is not None
    x, kernel, bias = (jnp.asarray(a, layer.dtype) for a in (x, kernel, layer.bias[...]))

    def as_product(x, kernel):
        b, h, w, c = x.shape
        pairs = to_blocks(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))  # the first starts one pixel before the map
        pairs = pairs.reshape(*pairs.shape[:3], 2, 2, c)
        rows = jnp.concatenate([pairs[:, :-1], pairs[:, 1:]], axis=3)
        places = jnp.concatenate([rows[:, :, :-1], rows[:, :, 1:]], axis=4)
        product = places.reshape(-1, 16 * c) @ kernel.reshape(16 * c, -1)
        return product.reshape(b, h // 2, w // 2, -1)

    def as_convolution(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return jax.lax.platform_dependent(x, kernel, cpu=as_product, default=as_convolution) + jnp.tile(bias, 4)


def conv3x3_from_blocks(layer: nnx.Conv, x: Float[Array, "b h w c4"]) -> Float[Array, "b h2 w2 k"]:
    """The same of a map in blocks, with a result of pixels: best for few channels of it.

    Each block adds to the 4x4 pixels around it.
    """
    c, k = layer.kernel.shape[2:]
    flipped = layer.kernel[...][::-1, ::-1]
    kernel = jnp.einsum("yad,xbe,deio->abiyxo", TAPS, TAPS, flipped).reshape(4 * c, 16 * k)
    assert layer.bias is not None
    x, kernel, bias = (jnp.asarray(a, layer.dtype) for a in (x, kernel, layer.bias[...]))
    b, h, w, _ = x.shape
    places = (x.reshape(-1, 4 * c) @ kernel).reshape(b, h, w, 4, 4, k)

    def overlap(places):
        """Adds what the rows of blocks before and after put beyond their own two rows of pixels, 1 and 2 of four."""
        beside = [(0, 0)] * 4
        before = jnp.pad(places[:, :-1, :, 3:], [(0, 0), (1, 0), *beside])
        after = jnp.pad(places[:, 1:, :, :1], [(0, 0), (0, 1), *beside])
        return places[:, :, :, 1:3] + jnp.concatenate([before, after], axis=3)

    def turned(places):
        """Columns for rows."""
        return places.transpose(0, 2, 1, 4, 3, 5)

    places = turned(overlap(turned(overlap(places))))
    return from_blocks(places.reshape(b, h, w, 4 * k)) + bias
