"""Boxes and connected parts of masks, traced."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...image.boxes import corners_of

__all__ = ["box_iou", "box_of", "boxes_of", "largest_component"]


def boxes_of(masks: Bool[Array | np.ndarray, "*b h w"]) -> Float[Array, "*b 4"]:
    """Centre x, centre y, width and height of the box around each mask, in pixels; zeros of an empty one."""
    masks = jnp.asarray(masks)

    def span(there: Bool[Array, "*b n"]) -> tuple[Int[Array, "*b"], Int[Array, "*b"]]:
        return jnp.argmax(there, axis=-1), there.shape[-1] - jnp.argmax(there[..., ::-1], axis=-1)

    (x0, x1), (y0, y1) = span(masks.any(axis=-2)), span(masks.any(axis=-1))
    boxes = jnp.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=-1)
    return jnp.where(masks.any(axis=(-2, -1))[..., None], boxes, 0.0)


def box_of(mask: Bool[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """`boxes_of` for one mask on the host."""
    if not mask.any():
        return 0.0, 0.0, 0.0, 0.0
    x0, y0, x1, y1 = corners_of(mask)
    return (x0 + x1 + 1) / 2, (y0 + y1 + 1) / 2, float(x1 + 1 - x0), float(y1 + 1 - y0)


def box_iou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """IoU of boxes as of `boxes_of`; 0 where one is empty."""
    low = jnp.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = jnp.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    common = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    whole = jnp.prod(jnp.maximum(a[..., 2:], 0), axis=-1) + jnp.prod(jnp.maximum(b[..., 2:], 0), axis=-1) - common
    return jnp.where(common > 0, common / jnp.maximum(whole, 1e-6), 0.0)


def largest_component(masks: Bool[Array | np.ndarray, "n h w"]) -> Bool[Array, "n h w"]:
    """The largest part of each mask whose pixels touch, corners included; of equal ones, that which ends first.

    Every pixel takes the highest number in its part of a row, of a column and among its neighbours, in turns, until no
    number changes: as often as the part that winds most has bends.
    """
    masks = jnp.asarray(masks)
    h, w = masks.shape[1:]
    numbers = jnp.where(masks, 1 + jnp.arange(h * w).reshape(h, w), 0)

    def later(a, b):  # the highest number since the last gap, and whether there is none
        (high_a, whole_a), (high_b, whole_b) = a, b
        return jnp.where(whole_b, jnp.maximum(high_a, high_b), high_b), whole_a & whole_b

    def spread(x: Int[Array, "n h w"]) -> Int[Array, "n h w"]:
        for axis in (1, 2):
            for reverse in (False, True):
                x, _ = jax.lax.associative_scan(later, (x, masks), axis=axis, reverse=reverse)
        return jnp.where(masks, jax.lax.reduce_window(x, 0, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME"), 0)

    def body(state):
        x, _ = state
        new = spread(x)
        return new, jnp.any(new != x)

    numbers, _ = jax.lax.while_loop(lambda state: state[1], body, (numbers, jnp.any(masks)))
    counts = jax.vmap(lambda x: jnp.bincount(x.ravel(), length=h * w + 1))(numbers).at[:, 0].set(0)
    return masks & (numbers == jnp.argmax(counts, axis=1)[:, None, None])
