"""Maps cut into windows and put together again, and pooled."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["max_pool_2x2", "merge_windows", "pad_to_windows", "partition_windows"]


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
