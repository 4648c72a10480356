"""Prompts sampled from true masks on the device, in slots of a static shape."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ..nn.prompt_encoder import (
    ABSENT,
    BOX_END,
    BOX_START,
    LOGIT_LIMIT,
    NEGATIVE,
    NOT_A_POINT,
    POSITIVE,
    Prompts,
)
from ..nn.resize import resize_planes
from .config import PromptConfig

__all__ = [
    "PromptKeys",
    "bounding_box",
    "coarse_mask",
    "correction_keys",
    "correct_prompts",
    "divide_objects",
    "noisy_mask",
    "prompt_keys",
    "sample_pixel",
    "sample_prompts",
]

# Coarse masks are given as logits of this size at most; the decoder's own confident ones are about as large.
COARSE_LOGIT = 10.0
# Two clicks that divide an object are at least so far apart, as a share of the input's side.
DIVIDED_APART = 0.1
# Keeps the randomness of steps apart from that of fresh weights, whose keys are the seed's, numbered from 0.
STEPS = 0x57E95


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptKeys:
    """A key for each row and each use. A key is either drawn from or split, once: then no two draws share bits.

    Attributes:
      sample: for `sample_prompts`.
      divide: for `divide_objects`.
      correct: for `correction_keys`, which has those of each round of `correct_prompts`.
      look: for the points at which the loss looks at masks (`losses.uncertain_points`).
    """

    sample: Key[Array, " b"]
    divide: Key[Array, " b"]
    correct: Key[Array, " b"]
    look: Key[Array, " b"]


def prompt_keys(seed: int, step: int | Int[Array, ""], rows: int) -> PromptKeys:
    """The keys of a step: those of a row depend on the seed, the step and the row's number alone."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STEPS), step)
    keys = jax.vmap(lambda row: jax.random.split(row, 4))(jax.random.split(key, rows))
    return PromptKeys(*(keys[:, use] for use in range(4)))


def correction_keys(keys: Key[Array, " b"], config: PromptConfig) -> list[Key[Array, " b"]]:
    """The keys of each round of corrections, of `PromptKeys.correct`."""
    rounds = jax.vmap(lambda key: jax.random.split(key, config.corrections))(keys)
    return [rounds[:, number] for number in range(config.corrections)]


def sample_prompts(
    keys: Key[Array, " b"], masks: Float[Array, "b s s"], config: PromptConfig, *, mask_size: int
) -> Prompts:
    """One object's prompts for each image, of the kinds and in the frequencies of `config`.

    Args:
      keys: a key for each row.
      masks: true coverage in [0, 1], none of them empty.
      config: the mix.
      mask_size: side of mask prompts.
    """
    return Prompts(*jax.vmap(lambda k, m: _sample_one(k, m, config, mask_size))(keys, masks))


def _sample_one(
    key: Key[Array, ""], mask: Float[Array, "s s"], config: PromptConfig, mask_size: int
) -> tuple[Float[Array, "slots 2"], Int[Array, " slots"], Float[Array, "m m"], Bool[Array, ""]]:
    """Points, labels, mask, and whether the mask is a prompt."""
    kind_key, box_key, point_key, mask_key = jax.random.split(key, 4)
    mix = jnp.array([config.box, config.points, config.mask, config.box_and_points])
    kind = jax.random.categorical(kind_key, jnp.log(mix))
    inside = mask > 0.5
    inside = jnp.where(inside.any(), inside, mask >= mask.max())  # thin things may cover no pixel by half

    corners = noisy_box(box_key, bounding_box(inside), inside.shape[0], config)
    has_box = (kind == 0) | (kind == 3)
    clicks, labels = sample_points(point_key, inside, config)
    has_points = (kind == 1) | (kind == 3)
    has_mask = kind == 2
    spare = config.corrections
    points = jnp.concatenate([corners, clicks, jnp.zeros((spare + 1, 2))])
    labels = jnp.concatenate(
        [
            jnp.where(has_box, jnp.array([BOX_START, BOX_END]), ABSENT),
            jnp.where(has_points, labels, ABSENT),
            jnp.full((spare,), ABSENT),
            jnp.where(has_mask, ABSENT, NOT_A_POINT)[None],
        ]
    )
    coarse = (noisy_mask if config.noisy_masks else coarse_mask)(mask_key, mask, mask_size)
    return points, labels, jnp.where(has_mask, coarse, 0.0), has_mask


def bounding_box(inside: Bool[Array, "h w"]) -> Float[Array, "2 2"]:
    """The corners (x0, y0), (x1, y1): the first and last columns and rows that are True, as HQ-SAM's `masks_to_boxes`.

    An object of one column or row gets a box one pixel wider, as a box must have an inside.
    """

    def extent(line):
        first = jnp.argmax(line)
        return first, jnp.maximum(line.size - 1 - jnp.argmax(line[::-1]), first + 1)

    x0, x1 = extent(inside.any(axis=0))
    y0, y1 = extent(inside.any(axis=1))
    return jnp.array([[x0, y0], [x1, y1]], jnp.float32)


def noisy_box(
    key: Key[Array, ""], corners: Float[Array, "2 2"], size: int, config: PromptConfig
) -> Float[Array, "2 2"]:
    """Corners moved at random, in proportion to the box's sides, but never so far that they meet."""
    sides = corners[1] - corners[0]
    limit = jnp.minimum(config.max_box_noise * size / 1024, 0.4 * sides)
    noise = jnp.clip(config.box_noise * sides * jax.random.normal(key, (2, 2)), -limit, limit)
    return jnp.clip(corners + noise, 0, size)


def sample_points(
    key: Key[Array, ""], inside: Bool[Array, "h w"], config: PromptConfig
) -> tuple[Float[Array, "n 2"], Int[Array, " n"]]:
    """`min_points` to `max_points` clicks; the first is on the object, some of the others beside it."""
    count_key, label_key, *point_keys = jax.random.split(key, 2 + config.max_points)
    n = config.max_points
    count = jax.random.randint(count_key, (), config.min_points, n + 1)
    negative = jax.random.bernoulli(label_key, config.negative_points, (n,)).at[0].set(False)
    near = _near(inside)
    negative &= near.any()

    rows_inside, rows_near = inside.sum(axis=1), near.sum(axis=1)

    def sample(k, is_negative):
        def row(y):
            return jnp.where(is_negative, near[y], inside[y])

        return _sample_in_rows(k, jnp.where(is_negative, rows_near, rows_inside), row)

    points = jax.vmap(sample)(jnp.stack(point_keys), negative)
    labels = jnp.where(negative, NEGATIVE, POSITIVE)
    return points, jnp.where(jnp.arange(n) < count, labels, ABSENT)


def _near(inside: Bool[Array, "h w"]) -> Bool[Array, "h w"]:
    """Pixels off the object but in its box, enlarged by half: where clicks off it tell something."""
    (x0, y0), (x1, y1) = bounding_box(inside)
    x, y = jnp.arange(inside.shape[1]), jnp.arange(inside.shape[0])
    in_x = (x >= x0 - 0.25 * (x1 - x0)) & (x < x1 + 0.25 * (x1 - x0))
    in_y = (y >= y0 - 0.25 * (y1 - y0)) & (y < y1 + 0.25 * (y1 - y0))
    return ~inside & in_x & in_y[:, None]


def sample_pixel(key: Key[Array, ""], inside: Bool[Array, "h w"]) -> Float[Array, " 2"]:
    """The (x, y) of one of the pixels that are True, all equally likely: first its row, then its place in it."""
    return _sample_in_rows(key, inside.sum(axis=1), lambda y: inside[y])


def _sample_in_rows(
    key: Key[Array, ""], counts: Int[Array, " h"], row: Callable[[Int[Array, ""]], Bool[Array, " w"]]
) -> Float[Array, " 2"]:
    """`sample_pixel`, of how many pixels of each row are True and which those of one are."""
    row_key, column_key = jax.random.split(key)
    y = _sample_index(row_key, counts)
    x = _sample_index(column_key, row(y).astype(jnp.int32))
    return jnp.stack([x, y]).astype(jnp.float32)


def _sample_index(key: Key[Array, ""], weights: Int[Array, " n"]) -> Int[Array, ""]:
    total = jnp.cumsum(weights)
    return jnp.searchsorted(total, jax.random.randint(key, (), 0, jnp.maximum(total[-1], 1)), side="right")


def coarse_mask(key: Key[Array, ""], mask: Float[Array, "s s"], size: int) -> Float[Array, "m m"]:
    """Logits of a mask that is right in the large and wrong along the edges: blurred, shifted and uneven.

    Args:
      key: the randomness.
      mask: true coverage in [0, 1].
      size: side of the result.
    """
    blur_key, shift_key, noise_key = jax.random.split(key, 3)
    small = _shrink(mask, size)
    cells = max(4, size // 8)
    coarse = jax.image.resize(_shrink(mask, cells), (size, size), "linear")
    blurred = jnp.where(jax.random.bernoulli(blur_key), coarse, 0.5 * (small + coarse))
    shift = jax.random.randint(shift_key, (2,), -(size // 64) - 1, size // 64 + 2)
    blurred = jnp.roll(blurred, shift, axis=(0, 1))
    noise = jax.image.resize(jax.random.normal(noise_key, (cells, cells)), (size, size), "linear")
    return COARSE_LOGIT * jnp.tanh(4 * (blurred - 0.5) + 0.4 * noise)


def noisy_mask(key: Key[Array, ""], mask: Float[Array, "s s"], size: int) -> Float[Array, "m m"]:
    """A mask of 0 and 255 that is right but in a band along its boundary, where noise decides, as in HQ-SAM's training.

    Args:
      key: the randomness.
      mask: true coverage in [0, 1].
      size: side of the result.
    """
    small = _shrink(mask, size)
    smooth = jax.image.resize(_shrink(mask, size // 8), (size, size), "linear")
    band = jnp.abs(small - smooth) >= 0.01
    return jnp.where(small + band * jax.random.normal(key, small.shape) > 0.5, 255.0, 0.0)


def _shrink(mask: Float[Array, "s s"], size: int) -> Float[Array, "m m"]:
    window = mask.shape[0] // size
    return mask.reshape(size, window, size, window).mean(axis=(1, 3))


def divide_objects(
    keys: Key[Array, " b"], prompts: Prompts, masks: Float[Array, "b s s"], config: PromptConfig
) -> tuple[Prompts, Float[Array, "b s s"]]:
    """For some rows with points, a part of the object is clicked away: other prompts, and what is left of the mask.

    Without this a negative click within an object is never seen, and does nothing. The line between the two clicks cuts
    the object where nothing in the image says how far the unwanted part goes.

    Args:
      keys: a key for each row, others than those of `sample_prompts`.
      prompts: from `sample_prompts`.
      masks: true coverage in [0, 1].
      config: the mix.
    """
    if not config.divided:
        return prompts, masks
    clicks = slice(2, 2 + config.max_points)

    def divide(key, points, labels, mask):
        chance_key, click_key = jax.random.split(key)
        wanted = points[2]
        places = jnp.stack(jnp.meshgrid(*(jnp.arange(side) for side in mask.shape), indexing="xy"), axis=-1)
        to_wanted = ((places - wanted) ** 2).sum(axis=-1)
        far = (mask > 0.5) & (to_wanted >= (DIVIDED_APART * len(mask)) ** 2)
        unwanted = sample_pixel(click_key, far)
        nearer = to_wanted < ((places - unwanted) ** 2).sum(axis=-1)
        divided = (labels[2] == POSITIVE) & far.any() & jax.random.bernoulli(chance_key, config.divided)
        pair = jnp.full(config.max_points, ABSENT).at[:2].set(jnp.array([POSITIVE, NEGATIVE]))
        return (
            jnp.where(divided, points.at[3].set(unwanted), points),
            jnp.where(divided, labels.at[clicks].set(pair), labels),
            jnp.where(divided, mask * nearer, mask),
        )

    points, labels, masks = jax.vmap(divide)(keys, prompts.points, prompts.labels, masks)
    return dataclasses.replace(prompts, points=points, labels=labels), masks


def correct_prompts(
    keys: Key[Array, " b"],
    prompts: Prompts,
    number: int | Int[Array, ""],
    rounds: int,
    logits: Float[Array, "b m m"],
    masks: Float[Array, "b s s"],
    shown: Float[Array, "b _ _"] | None = None,
) -> Prompts:
    """The prompts with a click more, on what a mask got wrong, and with `logits` as a mask prompt.

    Args:
      keys: a key for each row, others for every correction.
      prompts: from `sample_prompts`, with slots to spare for corrections, the last before the padding point.
      number: which correction this is, from 0.
      rounds: how many there are.
      logits: the masks that the prompts gave.
      masks: true coverage in [0, 1].
      shown: refined masks of any size, in which the error is looked for; by default in `logits`.
    """
    size = logits.shape[-1]
    seen = logits if shown is None else resize_planes(shown, (size, size), antialias=True)
    truth = jax.vmap(lambda m: _shrink(m, size))(masks) > 0.5
    missed, surplus = truth & (seen <= 0), ~truth & (seen > 0)
    is_missed = missed.sum(axis=(1, 2)) >= surplus.sum(axis=(1, 2))
    wrong = jnp.where(is_missed[:, None, None], missed, surplus)
    # A click in the middle of a low-resolution pixel.
    clicks = (jax.vmap(sample_pixel)(keys, wrong) + 0.5) * (masks.shape[-1] / size) - 0.5
    labels = jnp.where(is_missed, POSITIVE, NEGATIVE)
    labels = jnp.where(wrong.any(axis=(1, 2)), labels, ABSENT)
    slot = prompts.points.shape[1] - 1 - rounds + number  # in the order in which they are made
    return Prompts(
        points=jnp.asarray(prompts.points).at[:, slot].set(clicks),
        labels=jnp.asarray(prompts.labels).at[:, slot].set(labels).at[:, -1].set(NOT_A_POINT),
        mask=jnp.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT),
        has_mask=jnp.ones(len(masks), bool),
    )
