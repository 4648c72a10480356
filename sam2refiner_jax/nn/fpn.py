"""The feature pyramid neck (`sam2.modeling.backbones.image_encoder`)."""

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .layers import conv
from .resize import upsample_nearest_2x

__all__ = ["FpnNeck"]


class FpnNeck(nnx.Module):
    """Projects the stage outputs to one width and adds the stride-32 level to the stride-16 one.

    The two finer levels are lateral only, in all released models. `convs` runs from the coarsest level to the finest,
    as the official checkpoints number them.

    Args:
      stage_dims: channels of the trunk's four stages, highest resolution first.
      dim: channels of every level.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    strides = (4, 8, 16)

    def __init__(self, stage_dims: tuple[int, ...], dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.convs = nnx.List(nnx.Dict(conv=conv(d, dim, 1, dtype=dtype, rngs=rngs)) for d in reversed(stage_dims))

    def __call__(self, stages: tuple[Float[Array, "b _ _ _"], ...]) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Levels at strides 4, 8 and 16, highest resolution first."""
        _, _, stride8, stride4 = self.convs
        return stride4["conv"](stages[0]), stride8["conv"](stages[1]), self.stride16(stages)

    def stride16(self, stages: tuple[Float[Array, "b _ _ _"], ...]) -> Float[Array, "b h w c"]:
        """The level at stride 16 alone, of the two coarsest stages."""
        stride32, stride16, _, _ = self.convs
        return stride16["conv"](stages[2]) + upsample_nearest_2x(stride32["conv"](stages[3]))
