"""SAM-REF: image, clicks and coarse mask fused anew at each click, over the whole image and in one window.

After Yu et al. 2025 (CVPR, arXiv 2408.11535), which came without code. What its text leaves open is a field of
`SAMRefConfig`; where FocalClick (Chen et al. 2022, arXiv 2204.02574), which it builds on, has a convention, that is the
default.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ..config import SAM2Config
from ..features import ImageFeatures
from ..nn.per_chip import Count
from ..nn.prompt_encoder import BOX_END, BOX_START, NEGATIVE, POSITIVE
from ..nn.resize import resize_antialiased, resize_bilinear, resize_planes
from .base import Blend, Refined, Refiner, RefinerInputs, register_refiner
from .fusion import FusionRefiner, blend
from .prompt_retargeting import draw_clicks
from .windows import bounding_window, cut, enlarge, largest_region, paste

__all__ = ["Carry", "SAMRef", "SAMRefConfig"]

SELECTORS = ("dynamic", "global", "previous")
# Logits of the mask before the first click: nothing.
EMPTY = -10.0
# Regions are found on maps of at most this side.
REGION_SIDE = 128


@dataclasses.dataclass(frozen=True)
class SAMRefConfig:
    """Sizes and rules of SAM-REF. Its text gives the last one; [F] marks FocalClick's conventions.

    Attributes:
      local: refine in a window too.
      selector: onto which mask the window is pasted: "global", the one of the same click; "previous", the refined one
        of the click before; "dynamic", the former unless the pixels in error have grown by more than `growth`.
      stride: of the size at which the networks work, windows included. 4, the stride of SAM's own masks.
      width: channels. 32, with which the two networks have 0.25 million weights; the text's "0.7 MB" are 0.18.
      blocks: residual blocks of each network; the text tries 1, 3, 5 and 8.
      click_radius: of the disks that clicks are drawn as, in the networks' pixels [F].
      enlargement: of the window around the region that changed [F].
      small_region: below this share of the object's height or width a region gives no window: the newest click does
        [F].
      click_window: half the side of that window, as a share of the object's longer side [F].
      least_window: the shortest side of windows, as a share of the image's. A window of a few pixels shows nothing.
      error_threshold: of the probability from which a pixel counts as in error. One half, as masks are cut.
      growth: see `selector`.
    """

    local: bool = True
    selector: str = "dynamic"
    stride: int = 4
    width: int = 32
    blocks: int = 5
    click_radius: float = 5.0
    enlargement: float = 1.4
    small_region: float = 1 / 3
    click_window: float = 0.2
    least_window: float = 1 / 16
    error_threshold: float = 0.5
    growth: float = 1.1

    def __post_init__(self):
        if self.selector not in SELECTORS:
            raise ValueError(f"selector must be one of {', '.join(SELECTORS)}, got {self.selector!r}")
        if self.blocks < 1 or self.stride < 1:
            raise ValueError(f"blocks and stride must be at least 1, got {self.blocks} and {self.stride}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carry:
    """What one click leaves to the next.

    Attributes:
      mask: the refined logits.
      errors: how many pixels the global error map named; -1 before the first click.
    """

    mask: Float[Array | np.ndarray, "b s s"]
    errors: Float[Array | np.ndarray, " b"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prepared:
    """What is kept of images: normalised pixels, and the stride-16 features projected for each of the networks."""

    image: Float[Array, "b s s 3"]
    whole: Float[Array, "b h w c"]
    window: Float[Array, "b h w c"] | None


@register_refiner("sam_ref", SAMRefConfig)
class SAMRef(Refiner):
    """The global fusion refiner, the local one, and the selector between two masks for its window.

    Args:
      config: sizes and rules.
      base: the model's configuration.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, config: SAMRefConfig, base: SAM2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(config, base, dtype=dtype, rngs=rngs)
        self.image_size = base.image_size
        self.side = base.image_size // config.stride
        self.dtype = dtype

        def network():
            return FusionRefiner(base.hidden_dim, width=config.width, blocks=config.blocks, dtype=dtype, rngs=rngs)

        self.whole = network()
        self.window = nnx.data(network() if config.local else None)

    def initial_carry(self, objects: Count) -> Carry:
        side = self.image_size
        return Carry(jnp.full((objects, side, side), EMPTY), jnp.full(objects, -1.0))

    def carry_of(self, masks: Float[Array | np.ndarray, "b _ _"]) -> Carry:
        side = self.image_size
        return Carry(resize_planes(masks, (side, side)), jnp.full(masks.shape[0], -1.0))

    def prepare(
        self, images: Float[Array, "b s s 3"], features: ImageFeatures, views: Float[Array, "b v h w c"]
    ) -> Prepared:
        embedding = features.embedding
        window = None if self.window is None else self.window.feature_proj(embedding)
        return Prepared(images, self.whole.feature_proj(embedding), window)

    def __call__(self, inputs: RefinerInputs) -> Refined:
        prompts, carry, size = inputs.prompts, inputs.carry, (self.image_size, self.image_size)
        points, labels = jnp.asarray(prompts.points), jnp.asarray(prompts.labels)
        in_whole = self._blend_whole(inputs, points, labels)
        errors = (jax.nn.sigmoid(in_whole.errors) > self.config.error_threshold).sum(axis=(1, 2)).astype(jnp.float32)
        masks = resize_planes(in_whole.blended, size)
        blends: tuple[Blend, ...] = (in_whole,)
        if self.window is not None:
            windows = jax.lax.stop_gradient(self._windows(in_whole.blended, carry, points, labels))
            in_window = self._blend_window(inputs, masks, windows, points, labels)
            blends = (in_whole, in_window)
            onto = jnp.where(self._trusts_global(errors, carry)[:, None, None], masks, carry.mask)
            # Frames of videos without a prompt have no window.
            prompted = ((labels >= NEGATIVE) & (labels <= BOX_END)).any(axis=1)
            masks = jnp.where(prompted[:, None, None], paste(in_window.blended, windows, onto), masks)
        return Refined(masks, blends=blends, carry=jax.lax.stop_gradient(Carry(masks, errors)))

    def _blend_whole(self, inputs: RefinerInputs, points: Array, labels: Array) -> Blend:
        """What the global network makes of the whole image."""
        size = (self.side, self.side)
        coarse = resize_planes(inputs.masks, size)
        image, features = resize_antialiased(inputs.prepared.image, size), resize_bilinear(inputs.prepared.whole, size)
        return self._blend(self.whole, image, features, coarse, points, labels)

    def _blend_window(
        self, inputs: RefinerInputs, masks: Float[Array, "b s s"], windows: Float[Array, "b 4"], points, labels
    ) -> Blend:
        """What the local network makes of a window of the image and of the global mask."""
        assert self.window is not None
        coarse = cut(masks[..., None], windows, self.side)[..., 0]
        image, features = (cut(x, windows, self.side) for x in (inputs.prepared.image, inputs.prepared.window))
        # Clicks as if the window were the model's input.
        sides = windows[:, None, 2:] - windows[:, None, :2]
        moved = ((points + 0.5) / self.image_size - windows[:, None, :2]) / sides * self.image_size - 0.5
        return self._blend(self.window, image, features, coarse, moved, labels, windows)

    def _blend(
        self,
        network: FusionRefiner,
        image: Float[Array, "b n n 3"],
        features: Float[Array, "b n n c"],
        coarse: Float[Array, "b n n"],
        points: Float[Array, "b k 2"],
        labels: Int[Array, "b k"],
        windows: Float[Array, "b 4"] | None = None,
    ) -> Blend:
        clicks = draw_clicks(
            points, labels, image_size=self.image_size, side=self.side, radius=self.config.click_radius
        )
        errors, detail = network(image, jnp.concatenate([clicks, coarse[..., None]], axis=-1), features)
        return Blend(coarse, errors, detail, blend(errors, detail, coarse), windows)

    def _windows(
        self,
        masks: Float[Array, "b n n"],
        carry: Carry,
        points: Float[Array, "b k 2"],
        labels: Int[Array, "b k"],
    ) -> Float[Array, "b 4"]:
        """Where the second look is: where the mask changed most, unless that is small beside the object."""
        config, side = self.config, min(self.side, REGION_SIDE)
        now, before = (_shrink(x, side) > 0 for x in (masks, jnp.asarray(carry.mask)))
        changed = largest_region(now ^ before)
        region, whole = bounding_window(changed), bounding_window(now)
        region = jnp.where(changed.any(axis=(1, 2))[:, None], region, jnp.tile(whole[:, :2], 2))  # none: a point
        sides, object_sides = (w[:, 2:] - w[:, :2] for w in (region, whole))
        click, has_click = self._newest_click(points, labels)
        half = config.click_window * object_sides.max(axis=1, keepdims=True)
        around_click = jnp.concatenate([click - half, click + half], axis=-1)
        is_small = (sides < config.small_region * object_sides).any(axis=1) & has_click
        wanted = jnp.where(is_small[:, None], around_click, enlarge(region, config.enlargement, 0.0))
        # At the first click, and without any: the box that is the prompt, or the object.
        has_box, box = self._box(points, labels)
        is_first = ~before.any(axis=(1, 2)) | ~has_click
        first = enlarge(jnp.where(has_box[:, None], box, whole), config.enlargement, 0.0)
        return enlarge(jnp.where(is_first[:, None], first, wanted), 1.0, config.least_window)

    def _newest_click(self, points, labels) -> tuple[Float[Array, "b 2"], Bool[Array, " b"]]:
        """The last click in [0, 1] of the image, and whether there is any."""
        is_click = (labels == POSITIVE) | (labels == NEGATIVE)
        last = labels.shape[1] - 1 - jnp.argmax(is_click[:, ::-1], axis=1)
        place = jnp.take_along_axis(points, last[:, None, None], axis=1)[:, 0]
        return (place + 0.5) / self.image_size, is_click.any(axis=1)

    def _box(self, points, labels) -> tuple[Bool[Array, " b"], Float[Array, "b 4"]]:
        """Whether a box is among the prompts, and which, in [0, 1] of the image."""
        corners = []
        for kind in (BOX_START, BOX_END):
            index = jnp.argmax(labels == kind, axis=1)
            corners.append(jnp.take_along_axis(points, index[:, None, None], axis=1)[:, 0] / self.image_size)
        return (labels == BOX_START).any(axis=1), jnp.clip(jnp.concatenate(corners, axis=-1), 0, 1)

    def _trusts_global(self, errors: Float[Array, " b"], carry: Carry) -> Bool[Array, " b"]:
        """The selector: whether the window goes onto the mask of this click rather than onto the one before."""
        if self.config.selector == "global":
            return jnp.ones(errors.shape[0], bool)
        before = jnp.asarray(carry.errors)
        is_first = before < 0
        if self.config.selector == "previous":
            return is_first
        return is_first | (errors <= self.config.growth * before)


def _shrink(logits: Float[Array, "b n n"], side: int) -> Float[Array, "b {side} {side}"]:
    return resize_planes(logits, (side, side), antialias=True)
