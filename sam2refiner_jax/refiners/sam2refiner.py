"""SAM2Refiner: Localization Augment, Prompt Retargeting and Mask Refinement, each of which can be left out."""

import dataclasses
import math

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..config import SAM2Config
from ..features import ImageFeatures
from ..nn.resize import resize_planes
from .base import Box, Refined, Refiner, RefinerInputs, register_refiner
from .localization_augment import QUARTERS, LocalizationAugment
from .mask_refinement import MaskRefinement, UpscalingHead
from .prompt_retargeting import PromptRetargeting

__all__ = ["SAM2Refiner", "SAM2RefinerConfig"]


@dataclasses.dataclass(frozen=True)
class SAM2RefinerConfig:
    """The refiner of the paper; the fields after the first three are what the paper leaves open.

    Attributes:
      localization_augment: let the decoder's input attend to magnified quarters of the image.
      prompt_retargeting: renew the object embedding by the prompt and the coarse mask.
      mask_refinement: a UNet to the input's size; without it the mask is upsampled from stride 4.
      views: "input" cuts the quarters from the model's input, "source" from the photo as it came.
      pool_windows: sides of the pooling windows over the quarters' features.
      augment_heads: attention heads of Localization Augment.
      augment_mlp_dim: channels inside its MLP.
      augment_zero_init: start it as the identity.
      position_scale: angle of its fastest positional sine across the image, in radians.
      click_radius: radius of clicks in the dense prompt map, in pixels of stride 4.
      retarget_heads: attention heads of Prompt Retargeting.
      retarget_mlp_dim: channels inside its MLP.
      block_dims: channels of Mask Refinement's blocks at strides 16, 8 and 4.
      upscale_dims: channels of its transposed convolutions at strides 2 and 1.
      residual_mask: add to the upsampled coarse mask instead of replacing it; a fresh refiner then changes nothing.
      reuse_first_prompt: in videos, refine frames without prompts by those of the first prompted frame.
    """

    localization_augment: bool = True
    prompt_retargeting: bool = True
    mask_refinement: bool = True
    views: str = "input"
    pool_windows: tuple[int, ...] = (2, 4, 8)
    augment_heads: int = 8
    augment_mlp_dim: int = 1024
    augment_zero_init: bool = True
    position_scale: float = 2 * math.pi
    click_radius: float = 5.0
    retarget_heads: int = 8
    retarget_mlp_dim: int = 2048
    block_dims: tuple[int, int, int] = (256, 128, 64)
    upscale_dims: tuple[int, int] = (32, 16)
    residual_mask: bool = False
    reuse_first_prompt: bool = True

    def __post_init__(self):
        if self.views not in ("input", "source"):
            raise ValueError(f"views must be 'input' or 'source', got {self.views!r}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prepared:
    """What the refiner keeps of images.

    Attributes:
      pooled: the quarters' features in their places at every granularity; () without Localization Augment.
      skips: what the trunk's stages contribute to Mask Refinement; () without it.
      image: the images; None without it.
    """

    pooled: tuple[Float[Array, "b _ _ c"], ...]
    skips: tuple[Float[Array, "b _ _ _"], ...]
    image: Float[Array, "b s s 3"] | None


@register_refiner("sam2refiner", SAM2RefinerConfig)
class SAM2Refiner(Refiner):
    """The three modules around the frozen decoder.

    Args:
      config: the refiner's configuration.
      base: the model's; its `hidden_dim`, `image_size` and trunk's `stage_dims` are read.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.

    Raises:
      ValueError: if Mask Refinement is wanted of a trunk without stages at strides 4, 8 and 16.
    """

    def __init__(self, config: SAM2RefinerConfig, base: SAM2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim = base.hidden_dim
        super().__init__(config, base, dtype=dtype, rngs=rngs)
        self.localization_augment = self.prompt_retargeting = self.mask_refinement = self.head = nnx.data(None)
        if config.localization_augment:
            self.localization_augment = LocalizationAugment(
                dim,
                num_heads=config.augment_heads,
                mlp_dim=config.augment_mlp_dim,
                pool_windows=config.pool_windows,
                position_scale=config.position_scale,
                zero_init=config.augment_zero_init,
                dtype=dtype,
                rngs=rngs,
            )
        if config.prompt_retargeting:
            self.prompt_retargeting = PromptRetargeting(
                dim,
                num_heads=config.retarget_heads,
                mlp_dim=config.retarget_mlp_dim,
                click_radius=config.click_radius,
                image_size=base.image_size,
                dtype=dtype,
                rngs=rngs,
            )
        if config.mask_refinement:
            self.mask_refinement = MaskRefinement(
                dim,
                self._stage_dims(base),
                block_dims=config.block_dims,
                upscale_dims=config.upscale_dims,
                residual=config.residual_mask,
                dtype=dtype,
                rngs=rngs,
            )
        elif config.prompt_retargeting:
            self.head = UpscalingHead(dim, dtype=dtype, rngs=rngs)

    @staticmethod
    def _stage_dims(base: SAM2Config) -> tuple[int, int, int]:
        """Channels of the stages that Mask Refinement reads."""
        strides = base.trunk.stage_strides
        if strides[:3] != (4, 8, 16):
            raise ValueError(
                "mask_refinement of the refiner sam2refiner reads the trunk's stages at strides 4, 8 and 16; that of "
                f"{base.name} ({type(base.trunk).__name__}) has {', '.join(map(str, strides))}. "
                "SAM2RefinerConfig(mask_refinement=False), hq_sam2 and sam_ref read none"
            )
        stride4, stride8, stride16 = base.trunk.stage_dims[:3]
        return stride4, stride8, stride16

    @property
    def view_boxes(self) -> tuple[Box, ...]:
        return QUARTERS if self.config.localization_augment else ()

    @property
    def views(self) -> str:
        return self.config.views

    @property
    def reuse_first_prompt(self) -> bool:
        return self.config.reuse_first_prompt

    def prepare(
        self, images: Float[Array, "b s s 3"], features: ImageFeatures, views: Float[Array, "b v h w c"]
    ) -> Prepared:
        augment, refinement = self.localization_augment, self.mask_refinement
        return Prepared(
            () if augment is None else augment.pool(views),
            () if refinement is None else refinement.skips(features.stages[:3]),
            None if refinement is None else images,
        )

    def augment(self, embedding: Float[Array, "b h w c"], prepared: Prepared) -> Float[Array, "b h w c"]:
        if self.localization_augment is None:
            return embedding
        return self.localization_augment(embedding, prepared.pooled)

    def __call__(self, inputs: RefinerInputs) -> Refined:
        embedding = inputs.decoder.image
        if self.prompt_retargeting is not None:
            embedding = self.prompt_retargeting(inputs)
        if self.mask_refinement is not None:
            return self.mask_refinement(embedding, inputs.prepared.skips, inputs.prepared.image, inputs.masks)
        masks = inputs.masks if self.head is None else self.head(embedding)
        side = 4 * masks.shape[-1]
        return Refined(resize_planes(masks, (side, side)))
