"""Mask Refinement: a small UNet from the object embedding to a mask of the input's size (SAM2Refiner, 3.4)."""

import itertools

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..nn.blocks import conv3x3_from_blocks, conv3x3_to_blocks
from ..nn.layers import UpConv2x2, conv, gelu, layer_norm
from ..nn.resize import resize_bilinear, resize_planes
from .base import Refined

__all__ = ["MaskRefinement", "RefinementBlock", "UpscalingHead"]


class RefinementBlock(nnx.Module):
    """Upsample 2x (unless `keeps_size`), concatenate a projected trunk stage, 3x3 convolution, norm, GELU.

    The convolution of a concatenation is the sum of two, of which the trunk's does not depend on the prompts: `skip`
    computes it once an image.

    Args:
      dim: channels of the map that comes in.
      stage_dim: channels of the trunk's stage.
      dim_out: channels of the result, and to which the stage is projected.
      keeps_size: the map that comes in is as large as the stage already.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, stage_dim: int, dim_out: int, *, keeps_size: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.keeps_size = keeps_size
        self.stage_proj = conv(stage_dim, dim_out, 1, dtype=dtype, rngs=rngs)
        self.stage_conv = conv(dim_out, dim_out, 3, padding=1, use_bias=False, dtype=dtype, rngs=rngs)
        self.conv = conv(dim, dim_out, 3, padding=1, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(dim_out, epsilon=1e-6, dtype=dtype, rngs=rngs)

    def skip(self, stage: Float[Array, "b h w k"]) -> Float[Array, "b h w c2"]:
        """The part that a trunk stage contributes."""
        return self.stage_conv(self.stage_proj(stage))

    def __call__(self, x: Float[Array, "b _ _ c"], skip: Float[Array, "b h w c2"]) -> Float[Array, "b h w c2"]:
        if not self.keeps_size:
            x = resize_bilinear(x, (skip.shape[1], skip.shape[2]))
        return gelu(self.norm(self.conv(x) + skip))


class MaskRefinement(nnx.Module):
    """Blocks at strides 16, 8 and 4, two transposed convolutions, low-level features of the image, a last convolution.

    Args:
      dim: channels of the object embedding.
      stage_dims: channels of the trunk's stages at strides 4, 8 and 16.
      block_dims: channels of the blocks at strides 16, 8 and 4.
      upscale_dims: channels of the two transposed convolutions, at strides 2 and 1.
      residual: add to the upsampled coarse mask, starting with nothing, instead of replacing it.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self,
        dim: int,
        stage_dims: tuple[int, int, int],
        *,
        block_dims: tuple[int, int, int],
        upscale_dims: tuple[int, int],
        residual: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.residual = residual
        dims = (dim, *block_dims)
        self.blocks = nnx.List(
            RefinementBlock(n, stage_dim, k, keeps_size=i == 0, dtype=dtype, rngs=rngs)
            for i, ((n, k), stage_dim) in enumerate(zip(itertools.pairwise(dims), reversed(stage_dims), strict=True))
        )
        self.auxiliary = nnx.List(conv(k, 1, 1, dtype=dtype, rngs=rngs) for k in block_dims)
        self.up1 = UpConv2x2(block_dims[-1], upscale_dims[0], dtype=dtype, rngs=rngs)
        self.norm = layer_norm(upscale_dims[0], epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.up2 = UpConv2x2(upscale_dims[0], upscale_dims[1], dtype=dtype, rngs=rngs)
        self.image_conv = conv(3, upscale_dims[1], 3, padding=1, dtype=dtype, rngs=rngs)
        self.out = conv(upscale_dims[1], 1, 3, padding=1, dtype=dtype, rngs=rngs)
        if residual:
            self.out.kernel.set_value(jnp.zeros_like(self.out.kernel[...]))

    def skips(self, stages: tuple[Float[Array, "b _ _ _"], ...]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """What the trunk's stages at strides 4, 8 and 16 contribute to the blocks, in the order of the blocks."""
        return tuple(block.skip(stage) for block, stage in zip(self.blocks, reversed(stages), strict=True))

    def __call__(
        self,
        embedding: Float[Array, "b h w c"],
        skips: tuple[Float[Array, "b _ _ _"], ...],
        image: Float[Array, "b s s 3"],
        coarse: Float[Array, "b m m"],
    ) -> Refined:
        """Refined masks.

        Args:
          embedding: of the objects at stride 16.
          skips: from `skips`.
          image: normalised, as the encoder reads it.
          coarse: the mask to refine.
        """
        x, auxiliary = embedding, []
        for block, skip, head in zip(self.blocks, skips, self.auxiliary, strict=True):
            x = block(x, skip)
            auxiliary.append(head(x)[..., 0].astype(jnp.float32))
        x = gelu(self.norm(self.up1(x)))
        x = gelu(self.up2.blocks(x) + conv3x3_to_blocks(self.image_conv, image))
        masks = conv3x3_from_blocks(self.out, x)[..., 0].astype(jnp.float32)
        if self.residual:
            masks = masks + resize_planes(coarse, (masks.shape[1], masks.shape[2]))
        return Refined(masks, tuple(auxiliary))


class UpscalingHead(nnx.Module):
    """From the object embedding to a mask at stride 4, as the mask decoder upscales: for ablations without the UNet.

    Args:
      dim: channels of the object embedding; a quarter of them at stride 8, an eighth at stride 4.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.up1 = UpConv2x2(dim, dim // 4, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(dim // 4, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.up2 = UpConv2x2(dim // 4, dim // 8, dtype=dtype, rngs=rngs)
        self.out = conv(dim // 8, 1, 1, dtype=dtype, rngs=rngs)

    def __call__(self, embedding: Float[Array, "b h w c"]) -> Float[Array, "b m m"]:
        x = gelu(self.norm(self.up1(embedding)))
        return self.out(gelu(self.up2(x)))[..., 0].astype(jnp.float32)
