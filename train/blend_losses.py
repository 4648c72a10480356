"""SAM-REF's loss: of detail masks, of error maps, and of what is blended of the two (`refiners.base.Blend`)."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ..nn.resize import resize_planes
from ..refiners.base import Blend
from ..refiners.windows import cut
from .losses import dice_loss

__all__ = ["blend_losses", "boundary_band", "normalised_focal_loss"]

# Of the normalised focal loss, as FocalClick.
ALPHA, GAMMA = 0.5, 2.0
# Pixels off the boundary weigh this much of those on it.
OFF_BOUNDARY = 0.5
# The boundary is where a mask made so many times smaller, and large again, is another.
COARSENING = 8


def normalised_focal_loss(
    logits: Float[Array, "b n n"], truth: Float[Array, "b n n"], weights: Float[Array, "b n n"] | None = None
) -> Float[Array, " b"]:
    """Mean over the pixels of a focal loss whose weights are scaled to a mean of one (Sofiiuk et al. 2019, AdaptIS).

    So it falls less where most pixels are right already. The scale is a constant to the gradient.

    Args:
      logits: of masks.
      truth: coverage in [0, 1].
      weights: of each pixel's loss.
    """
    right = 1 - jnp.abs(truth - jax.nn.sigmoid(logits))
    focus = (1 - right) ** GAMMA
    scale = jax.lax.stop_gradient(1 / (focus.mean(axis=(-2, -1), keepdims=True) + 1e-8))
    each = -ALPHA * scale * focus * jnp.log(jnp.maximum(right, 1e-12))
    return (each if weights is None else weights * each).mean(axis=(-2, -1))


def boundary_band(truth: Bool[Array, "b n n"]) -> Bool[Array, "b n n"]:
    """Along the edge of masks: where they differ from their copy at an eighth of the size, and two pixels around."""
    side = truth.shape[-1]
    small = max(1, side // COARSENING)
    means = resize_planes(truth.astype(jnp.float32), (small, small))
    differs = (resize_planes(means, (side, side)) > 0.5) ^ truth
    for _ in range(2):
        differs = jax.lax.reduce_window(differs, False, jax.lax.bitwise_or, (1, 3, 3), (1, 1, 1), "SAME")
    return differs


def blend_losses(blends: tuple[Blend, ...], truth: Float[Array, "b s s"], error_target: str) -> Float[Array, ""]:
    """The sum over all blends; in windows, of the part of the truth that is there.

    Args:
      blends: of a refiner.
      truth: coverage in [0, 1].
      error_target: see `LossConfig`.
    """
    total = jnp.float32(0)
    whole = jnp.tile(jnp.array([0.0, 0.0, 1.0, 1.0]), (len(truth), 1))
    for blend in blends:
        windows = whole if blend.window is None else blend.window
        wanted = cut(truth[..., None], windows, blend.coarse.shape[-1])[..., 0]
        band = boundary_band(wanted > 0.5)
        errors = (blend.coarse > 0) ^ (wanted > 0.5) if error_target == "mistakes" else band
        weights = jnp.where(band, 1.0, OFF_BOUNDARY)
        total += (
            normalised_focal_loss(blend.detail, wanted)
            + dice_loss(blend.detail, wanted)
            + optax.sigmoid_binary_cross_entropy(blend.errors, errors.astype(jnp.float32)).mean(axis=(1, 2))
            + normalised_focal_loss(blend.blended, wanted, weights)
        ).mean()
    return total
