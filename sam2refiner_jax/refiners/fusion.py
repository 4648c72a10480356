"""The network of SAM-REF: image, clicks, coarse mask and SAM's features, fused to an error map and a detail mask."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..nn.layers import conv, layer_norm

__all__ = ["FusionRefiner", "ResidualBlock", "blend"]


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions with norms beside a shortcut.

    Args:
      dim: channels.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv1 = conv(dim, dim, 3, padding=1, dtype=dtype, rngs=rngs)
        self.norm1 = layer_norm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.conv2 = conv(dim, dim, 3, padding=1, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        return jax.nn.relu(x + self.norm2(self.conv2(y)))


class FusionRefiner(nnx.Module):
    """Image, prompt map and SAM's features, summed and refined by residual blocks, to an error map and a detail mask.

    Args:
      dim: channels of SAM's features.
      width: channels inside.
      blocks: how many residual blocks.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, *, width: int, blocks: int, dtype: DTypeLike, rngs: nnx.Rngs):
        def conv3(features_in: int, features_out: int) -> nnx.Conv:
            return conv(features_in, features_out, 3, padding=1, dtype=dtype, rngs=rngs)

        self.dtype = dtype
        self.image_conv1, self.image_conv2 = conv3(3, width), conv3(width, width)
        self.prompt_conv1, self.prompt_conv2 = conv3(3, width), conv3(width, width)
        self.feature_proj = conv(dim, width, 1, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(ResidualBlock(width, dtype=dtype, rngs=rngs) for _ in range(blocks))
        self.error_head, self.detail_head = conv3(width, 1), conv3(width, 1)

    def __call__(
        self,
        image: Float[Array, "b n n 3"],
        prompt_map: Float[Array, "b n n 3"],
        features: Float[Array, "b n n width"],
    ) -> tuple[Float[Array, "b n n"], Float[Array, "b n n"]]:
        """Logits of where the coarse mask is wrong, and of the mask there.

        Args:
          image: normalised.
          prompt_map: disks at positive clicks, disks at negative ones, and logits of the coarse mask.
          features: of SAM, after `feature_proj`, at the image's size; added again after each block.
        """
        x = self.image_conv2(jax.nn.relu(self.image_conv1(image.astype(self.dtype))))
        x += self.prompt_conv2(jax.nn.relu(self.prompt_conv1(prompt_map.astype(self.dtype))))
        x += features
        for block in self.blocks:
            x = block(x) + features
        return self.error_head(x)[..., 0].astype(jnp.float32), self.detail_head(x)[..., 0].astype(jnp.float32)


def blend(
    errors: Float[Array, "b n n"], detail: Float[Array, "b n n"], coarse: Float[Array, "b n n"]
) -> Float[Array, "b n n"]:
    """Logits of the detail mask where the error map is sure, and of the coarse mask where it sees none."""
    share = jax.nn.sigmoid(errors)
    return share * detail + (1 - share) * coarse
