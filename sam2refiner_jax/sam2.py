"""The SAM 2 module: encode an image, decode prompts (`sam2.modeling.sam2_base`)."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .config import SAM2Config
from .nn.fpn import ImageEncoder
from .nn.layers import MLP, conv
from .nn.mask_decoder import DecoderOutput, MaskDecoder
from .nn.memory_attention import MemoryAttention
from .nn.memory_encoder import MemoryEncoder
from .nn.prompt_encoder import PromptEncoder, Prompts

__all__ = ["ImageFeatures", "SAM2"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageFeatures:
    """What the image encoder makes of a batch of images.

    Attributes:
      embedding: the neck's stride-16 level, without the no-memory embedding.
      high_res: the stride-4 and stride-8 levels as the mask decoder wants them (32 and 64 channels).
      stages: the trunk's outputs at strides 4, 8, 16 and 32, or () where they were dropped.
    """

    embedding: Float[Array, "b h w c"]
    high_res: tuple[Float[Array, "b _ _ _"], Float[Array, "b _ _ _"]]
    stages: tuple[Float[Array, "b _ _ _"], ...] = ()

    def without_stages(self) -> "ImageFeatures":
        """The same without the trunk's outputs, which only refiners read and which weigh most."""
        return dataclasses.replace(self, stages=())

    def take(self, index: Int[Array | np.ndarray, " objects"]) -> "ImageFeatures":
        """The features of image `index[i]` as row i."""
        return jax.tree.map(lambda x: x[index], self)


class SAM2(nnx.Module):
    """A SAM 2 or SAM 2.1 model.

    The module is a pytree: pass it to `jax.jit` functions as an argument.

    Args:
      config: what to build.
      dtype: computation type of matrix products and activations. Softmax, norms and mask logits are float32 in
        any case. In float32, products run at full precision on every platform, so that results equal PyTorch's.
    """

    def __init__(self, config: SAM2Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        dim = config.hidden_dim
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.image_encoder = ImageEncoder(config, dtype=dtype, rngs=rngs)
        self.sam_prompt_encoder = PromptEncoder(config, dtype=dtype, rngs=rngs)
        self.sam_mask_decoder = MaskDecoder(config, dtype=dtype, rngs=rngs)
        self.memory_attention = MemoryAttention(config, dtype=dtype, rngs=rngs)
        self.memory_encoder = MemoryEncoder(config, dtype=dtype, rngs=rngs)
        self.mask_downsample = conv(1, 1, 4, stride=4, dtype=dtype, rngs=rngs)
        self.obj_ptr_proj = MLP((dim, dim, dim, dim), dtype=dtype, rngs=rngs)
        init = nnx.initializers.truncated_normal(0.02)
        self.maskmem_tpos_enc = nnx.Param(init(rngs.params(), (config.num_maskmem, 1, 1, config.memory_dim)))
        self.no_mem_embed = nnx.Param(init(rngs.params(), (1, 1, dim)))
        self.no_mem_pos_enc = nnx.Param(init(rngs.params(), (1, 1, dim)))
        self.no_obj_ptr = nnx.Param(init(rngs.params(), (1, dim)))
        if config.no_obj_embed_spatial:
            self.no_obj_embed_spatial = nnx.Param(init(rngs.params(), (1, config.memory_dim)))
        if config.obj_ptr_temporal_encoding:
            self.obj_ptr_tpos_proj = nnx.Linear(dim, config.memory_dim, dtype=dtype, rngs=rngs)

    def precision(self) -> contextlib.AbstractContextManager:
        """Full-precision products for a float32 model; JAX's default on GPU and TPU would round them."""
        return jax.default_matmul_precision("highest" if self.dtype == jnp.float32 else "default")

    def encode_image(self, image: Float[Array, "b s s 3"]) -> ImageFeatures:
        """Encodes normalised images (`preprocess_image`) of the model's input size."""
        with self.precision():
            stages, (stride4, stride8, stride16) = self.image_encoder(image.astype(self.dtype))
            decoder = self.sam_mask_decoder
            return ImageFeatures(stride16, (decoder.conv_s0(stride4), decoder.conv_s1(stride8)), stages)

    def image_embedding(self, features: ImageFeatures) -> Float[Array, "b h w c"]:
        """What the mask decoder reads at stride 16 when there is no memory: an image, or a video's first frame."""
        return features.embedding + self.no_mem_embed[...].astype(self.dtype)[None]

    def decode(self, embedding: Float[Array, "b h w c"], features: ImageFeatures, prompts: Prompts) -> DecoderOutput:
        """Decodes one object per row.

        Args:
          embedding: stride-16 features that the decoder reads: `image_embedding`, or memory-conditioned ones.
          features: the image of each object; gives the finer levels.
          prompts: the objects' prompts.
        """
        with self.precision():
            sparse, exists, dense = self.sam_prompt_encoder(prompts)
            image_pe = self.sam_prompt_encoder.image_encoding()
            return self.sam_mask_decoder(embedding, image_pe, sparse, exists, dense, features.high_res)
