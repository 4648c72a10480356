"""The mask decoder's transformer, in which tokens and image attend to each other (`sam2.modeling.sam.transformer`)."""

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from .attention import Attention
from .layers import MLP, layer_norm

__all__ = ["TwoWayAttentionBlock", "TwoWayTransformer"]


class TwoWayAttentionBlock(nnx.Module):
    """Self-attention of the tokens, tokens to image, MLP on the tokens, image to tokens.

    Args:
      dim: channels of tokens and image.
      num_heads: heads of each of the three attentions.
      mlp_dim: channels inside the MLP.
      downsample_rate: the factor by which the two cross-attentions' inner channels are fewer than `dim`.
      skip_first_layer_pe: the block's self-attention replaces the tokens instead of adding to them, and adds no
        positional encoding: for the first block, whose tokens are their own encoding.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_dim: int = 2048,
        downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def norm():
            return layer_norm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

        def cross_attention():
            return Attention(dim, num_heads, downsample_rate=downsample_rate, dtype=dtype, rngs=rngs)

        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = Attention(dim, num_heads, dtype=dtype, rngs=rngs)
        self.norm1 = norm()
        self.cross_attn_token_to_image = cross_attention()
        self.norm2 = norm()
        self.mlp = MLP((dim, mlp_dim, dim), activation=jax.nn.relu, dtype=dtype, rngs=rngs)
        self.norm3 = norm()
        self.norm4 = norm()
        self.cross_attn_image_to_token = cross_attention()

    def __call__(
        self,
        tokens: Float[Array, "b t c"],
        image: Float[Array, "b n c"],
        token_pe: Float[Array, "b t c"],
        image_pe: Float[Array, "n c"],
        token_mask: Bool[Array, "b t"],
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b n c"]]:
        """Renewed tokens and image; tokens whose mask is False are attended to by nothing."""
        if self.skip_first_layer_pe:
            tokens = self.self_attn(tokens, tokens, tokens, key_mask=token_mask)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens, key_mask=token_mask)
        tokens = self.norm1(tokens)

        tokens = tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        tokens = self.norm2(tokens)

        tokens = self.norm3(tokens + self.mlp(tokens))

        image = image + self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens, key_mask=token_mask)
        return tokens, self.norm4(image)


class TwoWayTransformer(nnx.Module):
    """Blocks of the above and a last attention of the tokens to the image.

    Args:
      dim: channels of tokens and image.
      mlp_dim: channels inside the blocks' MLPs.
      depth: number of blocks.
      num_heads: heads of every attention.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        mlp_dim: int = 2048,
        depth: int = 2,
        num_heads: int = 8,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.layers = nnx.List(
            TwoWayAttentionBlock(dim, num_heads, mlp_dim=mlp_dim, skip_first_layer_pe=i == 0, dtype=dtype, rngs=rngs)
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample_rate=2, dtype=dtype, rngs=rngs)
        self.norm_final_attn = layer_norm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "b t c"],
        image: Float[Array, "b n c"],
        image_pe: Float[Array, "n c"],
        token_mask: Bool[Array, "b t"],
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b n c"]]:
        """Final tokens and final image features."""
        token_pe, image_pe = tokens, image_pe.astype(image.dtype)
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, token_mask)
        tokens = tokens + self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens), image
