"""HQ-SAM 2: one more output token of the decoder, and a mask of its own from sharpened features at stride 4.

After the release of SysCV/sam-hq, folder sam-hq2 (for SAM: Ke et al. 2023, arXiv 2306.01567); names and shapes are
its checkpoint's.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..config import SAM2Config
from ..nn.layers import MLP, conv, embedding, gelu, layer_norm
from .base import Refined, Refiner, RefinerInputs, register_refiner

__all__ = ["HQSAM2", "HQSAM2Config"]


@dataclasses.dataclass(frozen=True)
class HQSAM2Config:
    """How the token's mask is used.

    Attributes:
      hq_only: its mask alone, one for each object, as the release advises for photos of one object; by default its
        logits are added to those of each of SAM 2's masks. In videos the release always adds them.
    """

    hq_only: bool = False


class MaskFeatures(nnx.Module):
    """Two convolutions over the decoder's upscaled features, which leave their shape.

    Args:
      dim: channels that go in and come out; between the two there are twice as many.
      dtype: computation type.
      rngs: for the weights.
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv1 = conv(dim, 2 * dim, 3, padding=1, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(2 * dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.conv2 = conv(2 * dim, dim, 3, padding=1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.conv2(gelu(self.norm(self.conv1(x))))


@register_refiner("hq_sam2", HQSAM2Config)
class HQSAM2(Refiner):
    """The token, its MLP and the features that its mask is a product of: 177,152 parameters.

    Args:
      config: how its mask is used.
      base: the model's configuration.
      dtype: computation type.
      rngs: for the weights.
    """

    def __init__(self, config: HQSAM2Config, base: SAM2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(config, base, dtype=dtype, rngs=rngs)
        dim = base.hidden_dim
        self.hf_token = embedding(1, dim, rngs=rngs)
        self.hf_mlp = MLP((dim, dim, dim, dim // 8), dtype=dtype, rngs=rngs)
        self.embedding_maskfeature = MaskFeatures(dim // 8, dtype=dtype, rngs=rngs)

    @property
    def stride(self) -> int:
        return 4

    @property
    def refines_each(self) -> bool:
        return not self.config.hq_only

    def extra_tokens(self) -> Float[Array, "1 c"]:
        return self.hf_token.embedding[...]

    def __call__(self, inputs: RefinerInputs) -> Refined:
        features = self.embedding_maskfeature(inputs.decoder.upscaled)
        weights = self.hf_mlp(inputs.decoder.extra_tokens[:, 0])
        hq = jnp.einsum("bc,bhwc->bhw", weights, features, preferred_element_type=jnp.float32)
        if self.config.hq_only:
            return Refined(hq, (hq,))
        return Refined(inputs.masks + hq.reshape(hq.shape[0], *(1,) * (inputs.masks.ndim - 3), *hq.shape[1:]), (hq,))
