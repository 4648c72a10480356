"""The loss: binary cross-entropy and Dice of masks, and what trains the base model's other outputs."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..nn.mask_decoder import DecoderOutput
from ..nn.resize import resize_bilinear
from ..refiners.base import Refined
from .config import LossConfig

__all__ = ["binary_cross_entropy", "coarse_losses", "dice_loss", "mask_iou", "mask_loss", "refined_losses"]


def binary_cross_entropy(logits: Float[Array, "*b h w"], truth: Float[Array, "*b h w"]) -> Float[Array, "*b"]:
    """Mean over the pixels of each mask; `truth` is coverage in [0, 1]."""
    return optax.sigmoid_binary_cross_entropy(logits, truth).mean(axis=(-2, -1))


def dice_loss(logits: Float[Array, "*b h w"], truth: Float[Array, "*b h w"]) -> Float[Array, "*b"]:
    """1 - Dice coefficient of each mask's probabilities and the truth, smoothed by one pixel (V-Net, as in SAM)."""
    probability = jax.nn.sigmoid(logits)
    overlap = (probability * truth).sum(axis=(-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum(axis=(-2, -1)) + truth.sum(axis=(-2, -1)) + 1)


def mask_loss(logits: Float[Array, "*b h w"], truth: Float[Array, "*b h2 w2"]) -> Float[Array, "*b"]:
    """BCE + Dice of each mask, at the size of the logits; the truth, which may be larger, is averaged down to it."""
    window = truth.shape[-1] // logits.shape[-1]
    if window > 1:
        side = logits.shape[-1]
        truth = truth.reshape(*truth.shape[:-2], side, window, side, window).mean(axis=(-3, -1))
    return binary_cross_entropy(logits, truth) + dice_loss(logits, truth)


def refined_losses(refined: Refined, truth: Float[Array, "b s s"], config: LossConfig) -> dict[str, Float[Array, ""]]:
    """The paper's loss: the final mask, and each auxiliary one at its own size (paper, section 3.4)."""
    parts = {}
    if config.final:
        parts["final"] = config.final * mask_loss(refined.masks, truth).mean()
    if refined.auxiliary and config.auxiliary:
        auxiliary = jnp.stack([mask_loss(logits, truth).mean() for logits in refined.auxiliary])
        parts["auxiliary"] = config.auxiliary * auxiliary.sum()
    return parts


def coarse_losses(
    output: DecoderOutput, truth: Float[Array, "b s s"], config: LossConfig
) -> dict[str, Float[Array, ""]]:
    """Losses of the base model's own outputs, as SAM 2 was trained: of three masks only the best learns.

    The logits are upsampled to the truth, so that the mask learns where edges lie between its pixels.
    """
    size = truth.shape[-2:]
    masks = resize_bilinear(output.masks.transpose(0, 2, 3, 1), size).transpose(0, 3, 1, 2)
    each = mask_loss(masks, jnp.broadcast_to(truth[:, None], masks.shape))
    parts = {"coarse": config.coarse * (each[:, 0] + each[:, 1:].min(axis=1)).mean()}
    if config.iou:
        actual = jax.lax.stop_gradient(mask_iou(masks, truth[:, None]))
        parts["iou"] = config.iou * jnp.square(output.iou - actual).mean()
    if config.object_score:
        score = output.object_score_logits
        parts["object_score"] = (
            config.object_score * optax.sigmoid_binary_cross_entropy(score, jnp.ones_like(score)).mean()
        )
    return parts


def mask_iou(logits: Float[Array, "*b h w"], truth: Float[Array, "*#b h w"]) -> Float[Array, "*b"]:
    """IoU of masks cut at zero with the truth cut at one half; 1 where both are empty."""
    mask, truth = logits > 0, truth > 0.5
    union = (mask | truth).sum(axis=(-2, -1))
    return jnp.where(union > 0, (mask & truth).sum(axis=(-2, -1)) / jnp.maximum(union, 1), 1.0)
