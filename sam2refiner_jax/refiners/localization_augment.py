"""Localization Augment: the decoder's input looks up detail in magnified quarters of the image (SAM2Refiner, 3.2)."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..nn.attention import Attention
from ..nn.layers import MLP, gelu, layer_norm
from ..nn.positional import sine_encoding_of_cells
from .base import Box

__all__ = ["QUARTERS", "LocalizationAugment", "assemble_quarters", "average_pool"]

# Row by row.
QUARTERS: tuple[Box, ...] = (
    (0.0, 0.0, 0.5, 0.5),
    (0.5, 0.0, 1.0, 0.5),
    (0.0, 0.5, 0.5, 1.0),
    (0.5, 0.5, 1.0, 1.0),
)


def assemble_quarters(views: Float[Array, "b 4 h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The maps of the four quarters put back in their places."""
    b, _, h, w, c = views.shape
    return views.reshape(b, 2, 2, h, w, c).swapaxes(2, 3).reshape(b, 2 * h, 2 * w, c)


def average_pool(x: Float[Array, "b h w c"], window: int) -> Float[Array, "b h2 w2 c"]:
    """Means over windows that do not overlap; `window` must divide both sides."""
    b, h, w, c = x.shape
    return x.reshape(b, h // window, window, w // window, window, c).mean(axis=(2, 4))


class LocalizationAugment(nnx.Module):
    """Cross-attention of the stride-16 features to the pooled features of the quarters, then an MLP.

    Pre-norm and residual, as in MVANet (https://arxiv.org/abs/2404.07445).

    Args:
      dim: channels.
      num_heads: attention heads.
      mlp_dim: channels inside the MLP.
      pool_windows: sides of the pooling windows, in cells of the assembled stride-8 map.
      position_scale: the positional encoding's `scale`.
      zero_init: start as the identity: both output projections are zero.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_dim: int,
        pool_windows: tuple[int, ...],
        position_scale: float,
        zero_init: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.pool_windows = pool_windows
        self.position_scale = position_scale
        self.dtype = dtype
        self.norm_q = layer_norm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.norm_kv = layer_norm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.attn = Attention(dim, num_heads, dtype=dtype, rngs=rngs)
        self.norm_mlp = layer_norm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.mlp = MLP((dim, mlp_dim, dim), activation=gelu, dtype=dtype, rngs=rngs)
        if zero_init:
            for layer in (self.attn.out_proj, self.mlp.layers[-1]):
                layer.kernel.set_value(jnp.zeros_like(layer.kernel[...]))

    def pool(self, views: Float[Array, "b 4 h w c"]) -> tuple[Float[Array, "b _ _ c"], ...]:
        """The quarters' features in their places, at every granularity."""
        whole = assemble_quarters(views)
        for window in self.pool_windows:
            if whole.shape[1] % window:
                raise ValueError(
                    f"image_size must be a multiple of {8 * window} for a pooling window of {window}, "
                    f"got {8 * whole.shape[1]}"
                )
        return tuple(average_pool(whole, window) for window in self.pool_windows)

    def __call__(
        self, embedding: Float[Array, "b h w c"], pooled: tuple[Float[Array, "b _ _ c"], ...]
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = embedding.shape
        places = jnp.concatenate([self._places(p.shape[1], p.shape[2], c) for p in pooled])
        keys = jnp.concatenate([p.reshape(b, -1, c) for p in pooled], axis=1)
        values = self.norm_kv(keys)
        tokens = embedding.reshape(b, h * w, c)
        queries = self.norm_q(tokens) + self._places(h, w, c)
        tokens = tokens + self.attn(queries, values + places, values)
        tokens = tokens + self.mlp(self.norm_mlp(tokens))
        return tokens.reshape(b, h, w, c)

    def _places(self, height: int, width: int, dim: int) -> Float[Array, "n c"]:
        code = sine_encoding_of_cells(height, width, dim, scale=self.position_scale)
        return code.reshape(height * width, dim).astype(self.dtype)
