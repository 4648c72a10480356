"""Prompts as static-shape arrays, and the module that embeds them (`sam2.modeling.sam.prompt_encoder`)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ..config import SAM2Config
from .layers import conv, embedding, gelu, layer_norm
from .positional import RandomPositionEncoding

__all__ = [
    "ABSENT",
    "BOX_END",
    "BOX_START",
    "LOGIT_LIMIT",
    "NEGATIVE",
    "NOT_A_POINT",
    "POSITIVE",
    "MaskDownscaling",
    "PromptEncoder",
    "Prompts",
]

# Masks of one prompt are given to the next as logits within this range, as officially.
LOGIT_LIMIT = 32.0

# Labels of the point slots. All but ABSENT are the official package's.
ABSENT = -2  # the slot is empty: its token takes no part in attention
NOT_A_POINT = -1  # the official padding point, a token of its own that does attend
NEGATIVE = 0
POSITIVE = 1
BOX_START = 2  # the top left corner of a box
BOX_END = 3  # the bottom right corner


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts for a batch of objects, in a fixed number of slots so that one compilation serves them all.

    Attributes:
      points: (x, y) in pixels of the model's square input.
      labels: what each slot holds: one of the constants above.
      mask: low-resolution logits of an earlier mask, ignored where `has_mask` is False.
      has_mask: whether `mask` is a prompt.
    """

    points: Float[Array | np.ndarray, "objects slots 2"]
    labels: Int[Array | np.ndarray, "objects slots"]
    mask: Float[Array | np.ndarray, "objects m m"]
    has_mask: Bool[Array | np.ndarray, " objects"]


class MaskDownscaling(nnx.Module):
    """Brings maps from stride 4 to the image embedding's stride 16 and width.

    Args:
      dim: channels of the result.
      in_features: channels of the maps; 1 for mask logits.
      hidden: channels at strides 8 and 16.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        in_features: int = 1,
        hidden: tuple[int, int] = (4, 16),
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(in_features, hidden[0], 2, stride=2, dtype=dtype, rngs=rngs)
        self.norm1 = layer_norm(hidden[0], epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.conv2 = conv(hidden[0], hidden[1], 2, stride=2, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(hidden[1], epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.conv3 = conv(hidden[1], dim, 1, dtype=dtype, rngs=rngs)

    def __call__(self, masks: Float[Array, "b m m k"]) -> Float[Array, "b h w c"]:
        x = gelu(self.norm1(self.conv1(masks)))
        x = gelu(self.norm2(self.conv2(x)))
        return self.conv3(x)


class PromptEncoder(nnx.Module):
    """Embeds points and boxes as tokens and masks as a map.

    Args:
      config: the model's configuration; its `hidden_dim` and `image_size` are read.
      dtype: computation type, float32 or bfloat16; the places of points are coded in float32.
      rngs: keys of fresh weights.
    """

    def __init__(self, config: SAM2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim = config.hidden_dim
        self.image_size = config.image_size
        self.embedding_size = config.embedding_size
        self.dtype = dtype
        self.pe_layer = RandomPositionEncoding(dim, rngs=rngs)
        self.point_embeddings = nnx.List(embedding(1, dim, rngs=rngs) for _ in range(4))
        self.not_a_point_embed = embedding(1, dim, rngs=rngs)
        self.mask_downscaling = MaskDownscaling(dim, dtype=dtype, rngs=rngs)
        self.no_mask_embed = embedding(1, dim, rngs=rngs)

    def image_encoding(self) -> Float[Array, "h w c"]:
        """The positional encoding of the image embedding's pixels."""
        return self.pe_layer.grid(self.embedding_size, self.embedding_size)

    def __call__(
        self, prompts: Prompts
    ) -> tuple[Float[Array, "objects slots c"], Bool[Array, "objects slots"], Float[Array, "objects h w c"]]:
        """Sparse tokens, which of them exist, and the dense map."""
        points, labels, mask = (jnp.asarray(x) for x in (prompts.points, prompts.labels, prompts.mask))
        # Points mean pixel corners outside and pixel centres inside, as officially.
        place = self.pe_layer((points + 0.5) / self.image_size)
        kinds = jnp.concatenate([embed.embedding[...] for embed in self.point_embeddings])
        tokens = place + kinds[jnp.clip(labels, 0)]
        tokens = jnp.where(labels[..., None] == NOT_A_POINT, self.not_a_point_embed.embedding[...], tokens)
        exists = labels != ABSENT

        dense = self.mask_downscaling(mask[..., None])
        no_mask = self.no_mask_embed.embedding[...].astype(dense.dtype)
        dense = jnp.where(prompts.has_mask[:, None, None, None], dense, no_mask)
        return tokens.astype(self.dtype), exists, dense
