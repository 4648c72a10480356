"""The loss: binary cross-entropy and Dice of masks, and what trains the base model's other outputs."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from ..nn.mask_decoder import DecoderOutput
from ..nn.resize import resize_planes
from ..refiners.base import Refined
from ..video.tracking import NO_OBJECT_SCORE
from .config import LossConfig

__all__ = [
    "binary_cross_entropy",
    "coarse_losses",
    "dice_loss",
    "focal_loss",
    "mask_iou",
    "mask_loss",
    "prompted_losses",
    "refined_losses",
    "uncertain_points",
]


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


# Of the focal loss, as in SAM and SAM 2; its gamma is 2.
FOCAL_ALPHA = 0.25


def focal_loss(logits: Float[Array, "*b h w"], truth: Float[Array, "*b h w"]) -> Float[Array, "*b"]:
    """Mean over the pixels of each mask; `truth` is coverage in [0, 1].

    Without the logarithms of probabilities that Optax's takes for the sake of any gamma: those keep TPUs from computing
    it in one pass, and have no gradient where a whole coverage is off by a rounding error.
    """
    wrong = jax.nn.sigmoid(logits) * (1 - truth) + jax.nn.sigmoid(-logits) * truth
    balance = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    each = balance * jnp.square(wrong) * optax.sigmoid_binary_cross_entropy(logits, truth)
    return each.mean(axis=(-2, -1))


# Of PointRend's sampling: random points for each that is wanted, and the share that is chosen for uncertainty.
OVERSAMPLED, UNCERTAIN = 3, 0.75


def uncertain_points(key: Key[Array, ""], logits: Float[Array, "h w"], count: int) -> Float[Array, "{count} 2"]:
    """Points (x, y), in [0, 1] of the sides, at most of which a mask is uncertain; the others are anywhere.

    Of three times as many random points those are taken whose logits are nearest to zero (Kirillov et al. 2020,
    PointRend), three quarters of the count.
    """
    chosen = int(UNCERTAIN * count)
    candidate_key, other_key = jax.random.split(key)
    candidates = jax.random.uniform(candidate_key, (OVERSAMPLED * count, 2))
    _, nearest = jax.lax.top_k(-jnp.abs(values_at(logits, candidates)), chosen)
    return jnp.concatenate([candidates[nearest], jax.random.uniform(other_key, (count - chosen, 2))])


def values_at(image: Float[Array, "h w"], points: Float[Array, "n 2"]) -> Float[Array, " n"]:
    """Values between the pixels, by bilinear interpolation; 0 beyond them, as `torch.nn.functional.grid_sample`."""
    x, y = points[:, 0] * image.shape[1] - 0.5, points[:, 1] * image.shape[0] - 0.5
    return jax.scipy.ndimage.map_coordinates(image, [y, x], order=1, mode="constant")


def mask_loss_at_points(
    keys: Key[Array, " b"], logits: Float[Array, "b h w"], truth: Float[Array, "b s s"], count: int
) -> Float[Array, " b"]:
    """BCE + Dice of each mask at `uncertain_points` of it, and at the same places of the truth."""
    points = jax.vmap(lambda key, mask: uncertain_points(key, mask, count))(keys, jax.lax.stop_gradient(logits))
    there, true = jax.vmap(values_at)(logits, points)[:, None], jax.vmap(values_at)(truth, points)[:, None]
    return binary_cross_entropy(there, true) + dice_loss(there, true)


def refined_losses(
    refined: Refined, truth: Float[Array, "b s s"], config: LossConfig, keys: Key[Array, " b"]
) -> dict[str, Float[Array, ""]]:
    """The paper's loss: the final mask, and each auxiliary one at its own size (paper, section 3.4).

    `keys`, one for each object, choose the points where `config.points` are asked for: other ones for every mask.
    """

    def loss(logits, number):
        if not config.points:
            return mask_loss(logits, truth).mean()
        own = jax.vmap(lambda key: jax.random.split(key, 1 + len(refined.auxiliary))[number])(keys)
        return mask_loss_at_points(own, logits, truth, config.points).mean()

    parts = {}
    if config.final:
        parts["final"] = config.final * loss(refined.masks, 0)
    if refined.auxiliary and config.auxiliary:
        auxiliary = jnp.stack([loss(logits, 1 + i) for i, logits in enumerate(refined.auxiliary)])
        parts["auxiliary"] = config.auxiliary * auxiliary.sum()
    return parts


def coarse_losses(
    output: DecoderOutput, truth: Float[Array, "b s s"], config: LossConfig
) -> dict[str, Float[Array, ""]]:
    """Losses of the base model's own outputs, as SAM 2 was trained: of three masks only the best learns.

    The logits are upsampled to the truth, so that the mask learns where edges lie between its pixels.
    """
    size = truth.shape[-2:]
    masks = resize_planes(output.masks, size)
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


def prompted_losses(
    output: DecoderOutput,
    multimask: Bool[Array, " b"],
    truth: Float[Array, "b s s"],
    visible: Bool[Array, " b"],
    config: LossConfig,
) -> dict[str, Float[Array, " b"]]:
    """Each object's losses as SAM 2 is trained on videos (its `MultiStepMultiMasksAndIous`).

    Only the masks that the prompts ask for learn: of three, the one whose focal and Dice losses are lowest together,
    while all three learn how good they are. Objects that are not to be seen teach their score alone. As in the official
    code, an object that the model takes for absent has masks of a logit of -1024, so that its score alone learns.

    Args:
      output: the decoder's.
      multimask: whether the prompts ask for three masks, or for one.
      truth: coverage in [0, 1].
      visible: whether the object is in the image.
      config: the weights.
    """
    size = truth.shape[-2:]
    scores = output.object_score_logits[:, 0]
    masks = jnp.where((scores > 0)[:, None, None, None], output.masks, NO_OBJECT_SCORE)
    masks = resize_planes(masks, size)
    truths = jnp.broadcast_to(truth[:, None], masks.shape)
    asked = jnp.where(multimask[:, None], jnp.array([False, True, True, True]), jnp.array([True, False, False, False]))
    focal = focal_loss(masks, truths)
    dice = dice_loss(masks, truths)
    parts = {}
    if config.focal or config.dice:
        both = config.focal * focal + config.dice * dice
        best = jnp.argmin(jnp.where(asked, both, jnp.inf), axis=1)[:, None]
        parts["focal"] = config.focal * jnp.take_along_axis(focal, best, axis=1)[:, 0] * visible
        parts["dice"] = config.dice * jnp.take_along_axis(dice, best, axis=1)[:, 0] * visible
    if config.iou:
        actual = jax.lax.stop_gradient(mask_iou(masks, truths))
        error = (jnp.abs(output.iou - actual) * asked).sum(axis=1) / asked.sum(axis=1)
        parts["iou"] = config.iou * error * visible
    if config.object_score:
        there = visible.astype(jnp.float32)
        parts["object_score"] = config.object_score * optax.sigmoid_binary_cross_entropy(scores, there)
    return parts


def mask_iou(logits: Float[Array, "*b h w"], truth: Float[Array, "*#b h w"]) -> Float[Array, "*b"]:
    """IoU of masks cut at zero with the truth cut at one half; 1 where both are empty."""
    mask, truth = logits > 0, truth > 0.5
    union = (mask | truth).sum(axis=(-2, -1))
    return jnp.where(union > 0, (mask & truth).sum(axis=(-2, -1)) / jnp.maximum(union, 1), 1.0)
