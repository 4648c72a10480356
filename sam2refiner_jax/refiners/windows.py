"""Windows of images: found around a region of a mask, cut out by resampling, and pasted back; all of static shape."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["bounding_window", "cut", "enlarge", "largest_region", "paste"]

# x0, y0, x1, y1 in [0, 1] of the image.
Windows = Float[Array, "b 4"]


def largest_region(mask: Bool[Array, "b n n"]) -> Bool[Array, "b n n"]:
    """The largest 8-connected region of each mask; of several, the one whose last pixel in reading order comes last.

    Every pixel takes the largest number among itself and its neighbours until nothing changes, so that a region has
    that of its last pixel.
    """
    side = mask.shape[-1]
    numbers = jnp.where(mask, jnp.arange(1, side * side + 1, dtype=jnp.int32).reshape(side, side), 0)

    def spread(labels):
        around = jax.lax.reduce_window(
            labels, jnp.int32(0), jax.lax.max, (1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1))
        )
        return jnp.where(mask, around, 0)

    def go_on(state):
        before, labels = state
        return (before != labels).any()

    _, labels = jax.lax.while_loop(go_on, lambda state: (state[1], spread(state[1])), (numbers, spread(numbers)))
    sizes = jax.vmap(lambda x: jnp.bincount(x.ravel(), length=side * side + 1).at[0].set(0))(labels)
    last_of = sizes.shape[1] - 1 - jnp.argmax(sizes[:, ::-1], axis=1)
    return mask & (labels == last_of[:, None, None])


def bounding_window(mask: Bool[Array, "b n n"]) -> Windows:
    """The outer edges of each mask's first and last rows and columns; of an empty mask, the whole image."""

    def extent(line):  # (b, n)
        side = line.shape[1]
        return jnp.argmax(line, axis=1) / side, 1 - jnp.argmax(line[:, ::-1], axis=1) / side

    x0, x1 = extent(mask.any(axis=1))
    y0, y1 = extent(mask.any(axis=2))
    return jnp.stack([x0, y0, x1, y1], axis=-1)


def enlarge(windows: Windows, factor: float, least: float) -> Windows:
    """Windows with sides `factor` times as long, `least` at least, moved and cut so that they lie in the image."""
    centre = (windows[:, :2] + windows[:, 2:]) / 2
    sides = jnp.clip((windows[:, 2:] - windows[:, :2]) * factor, least, 1.0)
    start = jnp.clip(centre - sides / 2, 0.0, 1.0 - sides)
    return jnp.concatenate([start, start + sides], axis=-1)


def cut(images: Float[Array, "b h w c"], windows: Windows, side: int) -> Float[Array, "b {side} {side} c"]:
    """What is in the windows, resampled to squares (bilinear, with antialiasing where that makes it smaller)."""
    rows = jax.vmap(lambda w: _cutting(images.shape[1], side, w[1], w[3]))(windows)
    columns = jax.vmap(lambda w: _cutting(images.shape[2], side, w[0], w[2]))(windows)
    return _apply(rows, images, columns)


def paste(pieces: Float[Array, "b n n"], windows: Windows, onto: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """The images with pieces in the places that `cut` took them from."""
    height, width = onto.shape[1:]
    rows, in_y = jax.vmap(lambda w: _pasting(height, pieces.shape[1], w[1], w[3]))(windows)
    columns, in_x = jax.vmap(lambda w: _pasting(width, pieces.shape[2], w[0], w[2]))(windows)
    inside = in_y[:, :, None] & in_x[:, None, :]
    return jnp.where(inside, _apply(rows, pieces[..., None], columns)[..., 0], onto)


def _apply(rows, images, columns):
    rows, columns = rows.astype(images.dtype), columns.astype(images.dtype)
    return jnp.einsum("bxw,bywc->byxc", columns, jnp.einsum("byh,bhwc->bywc", rows, images))


def _cutting(size: int, side: int, start: Float[Array, ""], stop: Float[Array, ""]) -> Float[Array, "side size"]:
    """Weights of an image's pixels in those of a window."""
    step = (stop - start) * size / side
    positions = start * size + (jnp.arange(side) + 0.5) * step - 0.5
    return _triangles(positions, size, jnp.maximum(step, 1.0))


def _pasting(
    size: int, side: int, start: Float[Array, ""], stop: Float[Array, ""]
) -> tuple[Float[Array, "size side"], Bool[Array, " size"]]:
    """Weights of a window's pixels in those of an image, and which of these the window covers."""
    centres = (jnp.arange(size) + 0.5) / size
    step = side / ((stop - start) * size)
    positions = (centres - start) / (stop - start) * side - 0.5
    return _triangles(positions, side, jnp.maximum(step, 1.0)), (centres >= start) & (centres < stop)


def _triangles(positions: Float[Array, " n"], size: int, reach: Float[Array, ""]) -> Float[Array, "n size"]:
    """Weights that fall linearly with the distance to each position, and add up to one; beyond an edge, the edge's."""
    distance = jnp.abs(jnp.arange(size) - jnp.clip(positions, 0, size - 1)[:, None])
    weights = jnp.maximum(1 - distance / reach, 0)
    return weights / weights.sum(axis=1, keepdims=True)
