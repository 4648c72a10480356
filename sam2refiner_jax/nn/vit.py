"""The image encoder of EfficientTAM (`efficient_track_anything.modeling.backbones`): a plain ViT and its neck."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..config import ViTConfig
from .hiera import MultiScaleBlock
from .layers import conv, layer_norm
from .patches import embed_patches
from .resize import resize_bicubic

__all__ = ["SimpleNeck", "ViT"]

PATCH = 16


class ViT(nnx.Module):
    """The trunk; returns the last block's output.

    Args:
      config: the trunk's configuration.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim, side = config.embed_dim, config.pos_embed_size
        self.dtype = dtype
        self.patch_embed = nnx.Dict(proj=conv(3, dim, PATCH, stride=PATCH, dtype=dtype, rngs=rngs))
        # The first is of the class token that the trunk was pretrained with; nothing here reads it.
        self.pos_embed = nnx.Param(jnp.zeros((1, 1 + side * side, dim)))
        self.blocks = nnx.List(
            MultiScaleBlock(
                dim,
                dim,
                config.num_heads,
                window=0 if i in config.global_att_blocks else config.window_size,
                pool=False,
                dtype=dtype,
                rngs=rngs,
            )
            for i in range(config.depth)
        )

    def positional_embedding(self, size: tuple[int, int]) -> Float[Array, "1 h w c"]:
        """The learned embedding stretched over the map."""
        places = self.pos_embed[...][:, 1:]
        side = round(places.shape[1] ** 0.5)
        return resize_bicubic(places.reshape(1, side, side, -1), size)

    def __call__(self, image: Float[Array, "b s s 3"]) -> tuple[Float[Array, "b h w c"]]:
        """The only stage, at stride 16."""
        x = embed_patches(self.patch_embed["proj"], image)
        x = x + self.positional_embedding((x.shape[1], x.shape[2])).astype(self.dtype)
        for block in self.blocks:
            x = block(x)
        return (x,)


class SimpleNeck(nnx.Module):
    """Brings one stage, at stride 16, to the model's width; there are no finer levels.

    Args:
      stage_dims: channels of the trunk's only stage.
      dim: channels of the level.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    strides = (16,)

    def __init__(self, stage_dims: tuple[int], dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        (width,) = stage_dims

        def norm():
            return layer_norm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)

        level = nnx.Dict(
            conv_1x1=conv(width, dim, 1, use_bias=False, dtype=dtype, rngs=rngs),
            norm_0=norm(),
            conv_3x3=conv(dim, dim, 3, padding=1, use_bias=False, dtype=dtype, rngs=rngs),
            norm_1=norm(),
        )
        self.convs = nnx.List([level])

    def __call__(self, stages: tuple[Float[Array, "b h w _"]]) -> tuple[Float[Array, "b h w c"]]:
        """The level at stride 16."""
        return (self.stride16(stages),)

    def stride16(self, stages: tuple[Float[Array, "b h w _"]]) -> Float[Array, "b h w c"]:
        """The same by itself."""
        level = self.convs[0]
        x = level["norm_0"](level["conv_1x1"](stages[0]))
        return level["norm_1"](level["conv_3x3"](x))
