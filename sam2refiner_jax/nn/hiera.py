"""The Hiera trunk of the image encoder (`sam2.modeling.backbones.hieradet`)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..config import HieraConfig
from .attention import map_attention
from .layers import MLP, conv, gelu, layer_norm, linear
from .patches import embed_patches
from .per_chip import divides_over_mesh, on_every_chip
from .resize import resize_bicubic
from .windows import columns_of_block, max_pool_2x2, merge_windows, pad_to_windows, partition_windows

__all__ = ["Hiera", "MultiScaleBlock"]


def lay_out(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The same map; a TPU is told to store it in the order, columns or channels last, that takes less padding.

    Left to itself its compiler spreads the order that suits the patch embedding over the first stage, at 2.8 times the
    size.
    """
    return jax.lax.platform_dependent(x, tpu=_lay_out_on_tpu, default=lambda x: x)


def _lay_out_on_tpu(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    b, _, w, c = x.shape
    if not divides_over_mesh(b):
        return x

    def registers(rows, lanes):
        return -(-rows // 8) * -(-lanes // 128)

    order = (0, 1, 2, 3) if registers(w, c) <= registers(c, w) else (0, 1, 3, 2)
    # Constraining the map as a whole would have every chip hold all of it.
    return on_every_chip(lambda part: with_layout_constraint(part, Layout(major_to_minor=order)), x)


class MultiScaleAttention(nnx.Module):
    """Self-attention of a map within windows, or over all of it where `window` is 0; one that starts a stage pools.

    Maps are padded to whole windows with zeros, and the padded tokens do attend, as officially.

    Args:
      dim: channels of the map that comes in.
      dim_out: channels of the result.
      num_heads: attention heads, which share `dim_out` between them.
      window: side of the windows, in tokens of the map that comes in; 0 to attend to all of it.
      pool: take the maximum of every 2x2 queries, which halves the map's sides.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self, dim: int, dim_out: int, num_heads: int, *, window: int, pool: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.num_heads = num_heads
        self.window = window
        self.pool = pool
        self.qkv = linear(dim, 3 * dim_out, dtype=dtype, rngs=rngs)
        self.proj = linear(dim_out, dim_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        _, h, w, _ = x.shape
        shrink = 2 if self.pool else 1
        if self.window:
            x = pad_to_windows(x, self.window)
        height, width = x.shape[1:3]
        # What must be cut into windows anyway is cut while it has a third of the channels.
        apart = bool(self.window) and columns_of_block(width, self.window, self.pool) is None
        if apart:
            x = partition_windows(x, self.window)
        out = map_attention(self.qkv(x), num_heads=self.num_heads, window=self.window or None, pool=self.pool)
        if apart:
            out = merge_windows(out, (height // shrink, width // shrink))
        return self.proj(out[:, : h // shrink, : w // shrink])


class MultiScaleBlock(nnx.Module):
    """A transformer block over a map, within windows (`window` > 0) or over all of it (`window` = 0).

    Args:
      dim: channels of the map that comes in.
      dim_out: channels of the result.
      num_heads: attention heads, which share `dim_out` between them.
      window: side of the windows, in tokens of the map that comes in; 0 to attend to all of it.
      pool: halve the map's sides, as a block that starts a stage does; `dim_out` must differ from `dim` then.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self, dim: int, dim_out: int, num_heads: int, *, window: int, pool: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.pool = pool
        self.norm1 = layer_norm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, window=window, pool=pool, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(dim_out, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.mlp = MLP((dim_out, 4 * dim_out, dim_out), activation=gelu, dtype=dtype, rngs=rngs)
        self.proj = linear(dim, dim_out, dtype=dtype, rngs=rngs) if dim != dim_out else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        x = lay_out(x)
        shortcut, x = x, self.norm1(x)
        if self.proj is not None:
            shortcut = self.proj(x)
            if self.pool:
                shortcut = max_pool_2x2(shortcut)
        x = shortcut + self.attn(x)
        return x + self.mlp(self.norm2(x))


class Hiera(nnx.Module):
    """The hierarchical trunk; returns the outputs of all four stages.

    Args:
      config: the trunk's configuration.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, config: HieraConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        dim, heads = config.embed_dim, config.num_heads
        self.patch_embed = nnx.Dict(proj=conv(3, dim, 7, stride=4, padding=3, dtype=dtype, rngs=rngs))
        background = (1, *config.window_pos_embed_bkg_spatial_size, dim)
        self.pos_embed = nnx.Param(jnp.zeros(background), layout="bhwc->bchw")
        in_window = (1, config.window_spec[0], config.window_spec[0], dim)
        self.pos_embed_window = nnx.Param(jnp.zeros(in_window), layout="bhwc->bchw")
        blocks: list[MultiScaleBlock] = []
        stage_ends = []
        for stage, depth in enumerate(config.stages):
            for i in range(depth):
                starts_stage = i == 0 and stage > 0
                # The first block of a stage still has the windows of the stage before, whose resolution it reads.
                window = config.window_spec[stage - 1 if starts_stage else stage]
                dim_out = config.stage_dims[stage]
                blocks.append(
                    MultiScaleBlock(
                        dim,
                        dim_out,
                        heads * 2**stage,
                        window=0 if len(blocks) in config.global_att_blocks else window,
                        pool=starts_stage,
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                dim = dim_out
            stage_ends.append(len(blocks) - 1)
        self.blocks = nnx.List(blocks)
        self.stage_ends = tuple(stage_ends)

    def positional_embedding(self, size: tuple[int, int]) -> Float[Array, "1 h w c"]:
        """The background embedding stretched over the map plus the window embedding tiled over it."""
        window = self.pos_embed_window[...]
        tiles = (1, size[0] // window.shape[1], size[1] // window.shape[2], 1)
        return resize_bicubic(self.pos_embed[...], size) + jnp.tile(window, tiles)

    def __call__(self, image: Float[Array, "b s s 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """The stage outputs at strides 4, 8, 16 and 32."""
        x = embed_patches(self.patch_embed["proj"], image)
        x = x + self.positional_embedding((x.shape[1], x.shape[2])).astype(self.dtype)
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                outputs.append(x)
        return tuple(outputs)
