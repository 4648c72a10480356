"""Maps cut into windows and put together again, and pooled."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["columns_of_block", "max_pool_2x2", "merge_windows", "pad_to_windows", "partition_windows"]

# Rows of a TPU's register of bfloat16, two to a sublane, and the tokens that a block of windows has at least.
ROWS, TOKENS = 16, 128


def columns_of_block(width: int, window: int, pool: bool) -> int | None:
    """Columns of a map within which a TPU attends at a time without cutting windows out of the map.

    They are whole windows and whole registers, of at least 128 tokens; None where the map has no such blocks.
    """
    step = math.lcm(window, 2 * ROWS if pool else ROWS)
    columns = step * -(-TOKENS // (window * step))
    return columns if width % columns == 0 else None


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The largest of every 2x2 pixels, channel by channel; both sides must be even."""
    return jax.lax.platform_dependent(x, tpu=_max_pool_by_windows, default=_max_pool_by_shape)


def _max_pool_by_shape(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def _max_pool_by_windows(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """For TPUs, on which splitting the columns in two would copy the map."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def pad_to_windows(x: Float[Array, "b h w c"], window: int) -> Float[Array, "b h2 w2 c"]:
    """Pads bottom and right with zeros until `window` divides both sides."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % window), (0, -x.shape[2] % window), (0, 0)))


def partition_windows(x: Float[Array, "b h w c"], window: int) -> Float[Array, "n window window c"]:
    """Cuts the map into windows, row by row; `window` must divide both sides."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c).swapaxes(2, 3)
    return x.reshape(-1, window, window, c)


def merge_windows(x: Float[Array, "n window window c"], size: tuple[int, int]) -> Float[Array, "b h w c"]:
    """Inverse of `partition_windows` for a map of `size` = (height, width)."""
    _, window, _, c = x.shape
    h, w = size
    x = x.reshape(-1, h // window, w // window, window, window, c).swapaxes(2, 3)
    return x.reshape(-1, h, w, c)
