"""Prompt Retargeting: the object embedding attends to the prompt and the coarse mask once more (SAM2Refiner, 3.3)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ..nn.layers import conv, gelu
from ..nn.prompt_encoder import NEGATIVE, POSITIVE, MaskDownscaling
from ..nn.two_way_transformer import TwoWayAttentionBlock
from .base import RefinerInputs

__all__ = ["PromptRetargeting", "ReceptiveFieldBlock", "draw_clicks"]

# Sides of the separable convolutions of the receptive field block's branches.
BRANCHES = (3, 5, 7)


class ReceptiveFieldBlock(nnx.Module):
    """Convolutions of several reaches side by side, after RFB (https://arxiv.org/abs/1711.07767), with a shortcut.

    Args:
      dim: channels of input and result; a quarter of them inside each branch.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        inner = dim // 4
        self.branches = nnx.List(
            nnx.Dict(
                reduce=conv(dim, inner, 1, dtype=dtype, rngs=rngs),
                row=conv(inner, inner, (1, n), padding=(0, n // 2), dtype=dtype, rngs=rngs),
                column=conv(inner, inner, (n, 1), padding=(n // 2, 0), dtype=dtype, rngs=rngs),
            )
            for n in BRANCHES
        )
        self.merge = conv(len(BRANCHES) * inner, dim, 1, dtype=dtype, rngs=rngs)
        self.shortcut = conv(dim, dim, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        branches = [gelu(b["column"](b["row"](gelu(b["reduce"](x))))) for b in self.branches]
        return self.merge(jnp.concatenate(branches, axis=-1)) + self.shortcut(x)


def draw_clicks(
    points: Float[Array | np.ndarray, "b n 2"],
    labels: Int[Array | np.ndarray, "b n"],
    *,
    image_size: int,
    side: int,
    radius: float,
) -> Float[Array, "b side side 2"]:
    """Maps that are 1 on disks around positive clicks (channel 0) and negative ones (channel 1), 0 elsewhere.

    Args:
      points: x and y in pixels of the model's input; a click on pixel (x, y) is at its centre.
      labels: what each point is; everything but clicks, such as boxes, is not drawn.
      image_size: side of the model's input.
      side: side of the map.
      radius: of the disks, in cells of the map.
    """
    centres = (points + 0.5) * (side / image_size)
    cells = jnp.arange(side) + 0.5
    dx = (cells - centres[..., 0:1]) ** 2
    dy = (cells - centres[..., 1:2]) ** 2
    inside = dy[:, :, :, None] + dx[:, :, None, :] <= radius**2
    kinds = [jnp.any(inside & (labels == kind)[..., None, None], axis=1) for kind in (POSITIVE, NEGATIVE)]
    return jnp.stack(kinds, axis=-1).astype(jnp.float32)


class PromptRetargeting(nnx.Module):
    """Renews the decoder's object embedding in the light of a map of clicks and mask, and of the decoder's tokens.

    Args:
      dim: channels.
      num_heads: attention heads.
      mlp_dim: channels inside the MLP of the tokens.
      click_radius: radius of clicks in the dense map, in its cells.
      image_size: side of the model's input.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_dim: int,
        click_radius: float,
        image_size: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.click_radius = click_radius
        self.image_size = image_size
        self.dtype = dtype
        self.receptive_field = ReceptiveFieldBlock(dim, dtype=dtype, rngs=rngs)
        self.dense_prompt = MaskDownscaling(dim, in_features=3, hidden=(16, 64), dtype=dtype, rngs=rngs)
        self.block = TwoWayAttentionBlock(dim, num_heads, mlp_dim=mlp_dim, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: RefinerInputs) -> Float[Array, "b h w c"]:
        """The renewed embedding."""
        embedding = inputs.decoder.image
        b, h, w, c = embedding.shape
        clicks = draw_clicks(
            inputs.prompts.points,
            inputs.prompts.labels,
            image_size=self.image_size,
            side=inputs.masks.shape[-1],
            radius=self.click_radius,
        )
        mask = jax.nn.sigmoid(inputs.masks)[..., None]
        dense = self.dense_prompt(jnp.concatenate([clicks, mask], axis=-1).astype(self.dtype))
        image = (self.receptive_field(embedding) + dense).reshape(b, h * w, c)

        output_tokens = inputs.decoder.output_tokens
        tokens = jnp.concatenate([output_tokens, inputs.sparse], axis=1)
        exist: Bool[Array, "b t"] = jnp.pad(
            inputs.sparse_mask, ((0, 0), (output_tokens.shape[1], 0)), constant_values=True
        )
        _, image = self.block(tokens, image, tokens, inputs.image_pe.reshape(h * w, c), exist)
        return image.reshape(b, h, w, c)
