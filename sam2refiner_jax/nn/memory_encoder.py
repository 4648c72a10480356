"""Turns a frame and its mask into memory features (`sam2.modeling.memory_encoder`)."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..config import SAM2Config
from .convolution import convolve_depthwise
from .initializers import fan_in_uniform
from .layers import conv, gelu, layer_norm, linear
from .patches import embed_patches
from .weights import BIAS, KERNEL

__all__ = ["MemoryEncoder"]

# A convolution of fewer channels than these leaves most of a TPU's registers empty.
FEW_CHANNELS = 64


class MaskDownSampler(nnx.Module):
    """Four stride-2 convolutions from the image's size to stride 16, each quadrupling the channels.

    Args:
      dim: channels of the result, to which a last 1x1 convolution leads.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        widths = (1, 4, 16, 64, 256)
        self.convs = nnx.List(
            conv(n, k, 3, stride=2, padding=1, dtype=dtype, rngs=rngs) for n, k in itertools.pairwise(widths)
        )
        self.norms = nnx.List(layer_norm(k, epsilon=1e-6, dtype=dtype, rngs=rngs) for k in widths[1:])
        self.out_proj = conv(widths[-1], dim, 1, dtype=dtype, rngs=rngs)

    def __call__(self, masks: Float[Array, "b s s 1"]) -> Float[Array, "b h h c"]:
        x = masks
        for convolution, norm in zip(self.convs, self.norms, strict=True):
            few = convolution.in_features < FEW_CHANNELS
            x = gelu(norm(embed_patches(convolution, x) if few else convolution(x)))
        return self.out_proj(x)


class DepthwiseConv(nnx.Module):
    """A convolution that keeps the channels apart and the map's size.

    It is written as shifted multiply-adds, which XLA fuses into one loop for each row of the kernel; on CPUs that is
    ten times as fast as its grouped convolution. On TPUs, by their compiler's estimate, it is four times as slow.

    Args:
      dim: channels.
      kernel_size: side of the kernel in pixels, an odd number.
      dtype: type of the result, and on TPUs of what is multiplied; sums are float32 whatever it is.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, kernel_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        drawn = fan_in_uniform()(rngs.params(), (kernel_size, kernel_size, 1, dim), jnp.float32)
        self.kernel = nnx.Param(drawn, **KERNEL, layout="hwio->oihw")
        self.bias = nnx.Param(jnp.zeros(dim), **BIAS)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        arguments = x, self.kernel[...], self.bias[...]
        return jax.lax.platform_dependent(*arguments, tpu=self._grouped, default=self._shifted)

    def _grouped(self, x, kernel, bias):
        return convolve_depthwise(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)

    def _shifted(self, x, kernel, bias):
        side, (height, width) = kernel.shape[0], x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0))).astype(jnp.float32)

        def add_row(out, row):
            i, weights = row
            shifted = jax.lax.dynamic_slice_in_dim(padded, i, height, axis=1)
            for j in range(side):
                out = out + shifted[:, :, j : j + width] * weights[j, 0]
            return out, None

        out = jnp.broadcast_to(bias.astype(jnp.float32), x.shape)
        out, _ = jax.lax.scan(add_row, out, (jnp.arange(side), kernel.astype(jnp.float32)))
        return out.astype(self.dtype)


class CXBlock(nnx.Module):
    """A ConvNeXt block (https://arxiv.org/abs/2201.03545).

    Args:
      dim: channels; four times as many inside.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dwconv = DepthwiseConv(dim, 7, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.pwconv1 = linear(dim, 4 * dim, dtype=dtype, rngs=rngs)
        self.pwconv2 = linear(4 * dim, dim, dtype=dtype, rngs=rngs)
        self.gamma = nnx.Param(jnp.full(dim, 1e-6, jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = self.norm(self.dwconv(x))
        y = self.pwconv2(gelu(self.pwconv1(y)))
        return x + self.gamma[...].astype(y.dtype) * y


class MemoryEncoder(nnx.Module):
    """Fuses unconditioned frame features with the frame's mask.

    Args:
      config: the model's configuration; its `hidden_dim` and `memory_dim` are read.
      num_layers: ConvNeXt blocks that the sum of features and mask goes through.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, config: SAM2Config, *, num_layers: int = 2, dtype: DTypeLike, rngs: nnx.Rngs):
        dim = config.hidden_dim
        self.mask_downsampler = MaskDownSampler(dim, dtype=dtype, rngs=rngs)
        self.pix_feat_proj = conv(dim, dim, 1, dtype=dtype, rngs=rngs)
        self.fuser = nnx.Dict(layers=nnx.List(CXBlock(dim, dtype=dtype, rngs=rngs) for _ in range(num_layers)))
        self.out_proj = conv(dim, config.memory_dim, 1, dtype=dtype, rngs=rngs)

    def __call__(self, features: Float[Array, "b h h c"], masks: Float[Array, "b s s 1"]) -> Float[Array, "b h h cm"]:
        """Memory features at stride 16.

        Args:
          features: the frame's stride-16 level, not conditioned on memories.
          masks: mask values at the image's size, already scaled (sigmoid or binary, times 20, minus 10).
        """
        x = self.pix_feat_proj(features) + self.mask_downsampler(masks)
        for block in self.fuser["layers"]:
            x = block(x)
        return self.out_proj(x)
