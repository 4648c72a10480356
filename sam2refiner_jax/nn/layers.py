"""Small layers that several modules share."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .blocks import from_blocks
from .convolution import convolve
from .initializers import fan_in_uniform, normal
from .weights import BIAS, KERNEL

__all__ = ["Buffer", "MLP", "UpConv2x2", "conv", "embedding", "gelu", "layer_norm", "linear"]

ZEROS = nnx.with_metadata(jax.nn.initializers.zeros, **BIAS)


class Buffer(nnx.Variable):
    """A tensor that belongs to the model's state but is never trained."""


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact (erf) GELU, as `torch.nn.GELU`; float32 inside whatever the type of `x` is.

    JAX's own form has erfc: a choice between two series, both of which CPUs compute and TPUs write to memory.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def layer_norm(dim: int, *, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm over the last axis; float32 inside whatever `dtype` is.

    In float32 the variance takes a second pass, which makes it agree with PyTorch to the last digits. Narrower inputs
    have fewer digits than a single pass loses, and it saves reading them once more.
    """
    fast = jnp.dtype(dtype) != jnp.float32
    return nnx.LayerNorm(dim, epsilon=epsilon, dtype=dtype, use_fast_variance=fast, rngs=rngs)


def linear(in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer over the last axis."""
    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=nnx.with_metadata(fan_in_uniform(), **KERNEL, layout="io->oi"),
        bias_init=ZEROS,
        dtype=dtype,
        dot_general=last_axis_product,
        rngs=rngs,
    )


def last_axis_product(
    x: Float[Array, "*batch c"], kernel: Float[Array, "c n"], dimension_numbers: Any, **options: Any
) -> Float[Array, "*batch n"]:
    """`jax.lax.dot_general` of a linear layer, on CPUs as a product of two matrices.

    Otherwise the CPU's compiler transposes the whole map for the gradient of the kernel: a quarter of a training step.
    """

    def as_matrices(x, kernel):
        rows = x.reshape(-1, x.shape[-1])
        return jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options).reshape(*x.shape[:-1], -1)

    def as_it_is(x, kernel):
        return jax.lax.dot_general(x, kernel, dimension_numbers, **options)

    return jax.lax.platform_dependent(x, kernel, cpu=as_matrices, default=as_it_is)


def embedding(count: int, dim: int, *, rngs: nnx.Rngs) -> nnx.Embed:
    """Learned vectors, at first as long as positional encodings and normalised features are, as officially."""
    return nnx.Embed(count, dim, embedding_init=normal(1.0), rngs=rngs)


def conv(
    in_features: int,
    out_features: int,
    kernel_size: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    use_bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """An NHWC convolution with PyTorch's symmetric padding; sizes are (vertical, horizontal), or one for both."""
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    vertical, horizontal = (padding, padding) if isinstance(padding, int) else padding
    return nnx.Conv(
        in_features,
        out_features,
        kernel_size=kernel,
        strides=stride,
        padding=[(vertical, vertical), (horizontal, horizontal)],
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=nnx.with_metadata(fan_in_uniform(), **KERNEL, layout="hwio->oihw"),
        bias_init=ZEROS,
        dtype=dtype,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


class UpConv2x2(nnx.Module):
    """The 2x2 stride-2 transposed convolution: every pixel becomes a 2x2 block of its own.

    Blocks do not overlap, so it is one matrix product and a reshape.

    Args:
      in_features: channels of the map that comes in.
      out_features: channels of the result.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        # PyTorch takes the outputs of transposed convolutions for their inputs here.
        drawn = fan_in_uniform()(rngs.params(), (2, 2, out_features, in_features), jnp.float32)
        self.kernel = nnx.Param(drawn.swapaxes(-1, -2), **KERNEL, layout="hwio->iohw")
        self.bias = nnx.Param(jnp.zeros(out_features), **BIAS)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        return from_blocks(self.blocks(x))

    def blocks(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c4"]:
        """The same, each 2x2 block in the channels of its pixel (`nn.blocks`)."""
        kernel = self.kernel[...].transpose(2, 0, 1, 3)
        kernel = kernel.reshape(len(kernel), -1).astype(self.dtype)
        return last_axis_product(x.astype(self.dtype), kernel, (((3,), (0,)), ((), ()))) + jnp.tile(
            self.bias[...].astype(self.dtype), 4
        )


class MLP(nnx.Module):
    """Linear layers with an activation between them (`sam2.modeling.sam2_utils.MLP`).

    Args:
      features: widths, from the input's to the output's.
      activation: applied after every layer but the last.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(
        self,
        features: Sequence[int],
        *,
        activation: Callable[[Array], Array] = jax.nn.relu,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.layers = nnx.List(linear(n, k, dtype=dtype, rngs=rngs) for n, k in itertools.pairwise(features))

    def __call__(self, x: Float[Array, "*batch c_in"]) -> Float[Array, "*batch c_out"]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
