"""The SAM 2 module: encode an image, decode prompts (`sam2.modeling.sam2_base`)."""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .config import SAM2Config
from .features import ImageFeatures
from .nn.image_encoder import ImageEncoder
from .nn.initializers import truncated_normal
from .nn.layers import MLP, conv, linear
from .nn.mask_decoder import DecoderOutput, MaskDecoder
from .nn.memory_attention import MemoryAttention
from .nn.memory_encoder import MemoryEncoder
from .nn.prompt_encoder import PromptEncoder, Prompts
from .nn.weights import in_part
from .provenance import Provenance
from .refiners.base import Refined, Refiner, RefinerInputs, cut_views

__all__ = ["ENCODED", "MEMORY_PARTS", "ImageFeatures", "SAM2"]


# The parts of a model that videos alone need, as its weights name them.
MEMORY_PARTS = ("memory_attention", "memory_encoder")
# What the encoder makes of an image and its views, by which name a policy of `jax.checkpoint` can keep it.
ENCODED = "encoded"


class SAM2(nnx.Module):
    """A SAM 2 or SAM 2.1 model, or one of EfficientTAM, which has another image encoder.

    The module is a pytree: pass it to `jax.jit` functions as an argument.

    Args:
      config: what to build.
      dtype: computation type of matrix products and activations. Softmax, norms and mask logits are float32 in
        any case. In float32, products run at full precision on every platform, so that results equal PyTorch's.
      refiner: makes finer masks of the decoder's, if there is one (`refiners`).
    """

    def __init__(
        self, config: SAM2Config, *, dtype: DTypeLike = jnp.float32, refiner: Refiner | None = None, rngs: nnx.Rngs
    ):
        dim = config.hidden_dim
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.provenance = Provenance()
        self.image_encoder = ImageEncoder(config, dtype=dtype, rngs=rngs)
        in_part("trunk", self.image_encoder.trunk)
        in_part("neck", self.image_encoder.neck)
        self.sam_prompt_encoder = in_part("prompt_encoder", PromptEncoder(config, dtype=dtype, rngs=rngs))
        self.sam_mask_decoder = in_part(
            "decoder", MaskDecoder(config, high_res=len(self.image_encoder.neck.strides) > 1, dtype=dtype, rngs=rngs)
        )
        in_part("object_score", self.sam_mask_decoder.pred_obj_score_head)  # masks do not depend on it

        def token(part: str | None, *shape: int) -> nnx.Param:
            return nnx.Param(truncated_normal(0.02)(rngs.params(), shape), part=part)

        if config.memory:
            self.memory_attention = in_part("memory_attention", MemoryAttention(config, dtype=dtype, rngs=rngs))
            self.memory_encoder = in_part("memory_encoder", MemoryEncoder(config, dtype=dtype, rngs=rngs))
            self.mask_downsample = in_part("memory_encoder", conv(1, 1, 4, stride=4, dtype=dtype, rngs=rngs))
            self.obj_ptr_proj = in_part("memory_encoder", MLP((dim, dim, dim, dim), dtype=dtype, rngs=rngs))
            self.maskmem_tpos_enc = token("memory_attention", config.num_maskmem, 1, 1, config.memory_dim)
        self.no_mem_embed = token("neck", 1, 1, dim)
        if config.memory:
            self.no_mem_pos_enc = token(None, 1, 1, dim)  # in official files, but no released model computes with it
            self.no_obj_ptr = token("memory_encoder", 1, dim)
            if config.no_obj_embed_spatial:
                self.no_obj_embed_spatial = token("memory_encoder", 1, config.memory_dim)
            if config.obj_ptr_temporal_encoding:
                self.obj_ptr_tpos_proj = in_part(
                    "memory_attention", linear(dim, config.memory_dim, dtype=dtype, rngs=rngs)
                )
        self.refiner = nnx.data(refiner and in_part("refiner", refiner))

    @property
    def untrained_memory(self) -> tuple[str, ...]:
        """The parts of the memory whose weights are known to be random."""
        return tuple(part for part in MEMORY_PARTS if part in self.provenance.untrained)

    def with_refiner(self, refiner: Refiner | None) -> "SAM2":
        """The same model with another refiner or with none; arrays are shared until one of the two is given others."""
        other = nnx.merge(*nnx.split(self), copy=True)
        other.refiner = nnx.data(refiner and in_part("refiner", refiner))
        return other

    def precision(self) -> contextlib.AbstractContextManager:
        """Full-precision products for a float32 model; JAX's default on GPU and TPU would round them."""
        return jax.default_matmul_precision("highest" if self.dtype == jnp.float32 else "default")

    def encode_image(self, image: Float[Array, "b s s 3"]) -> ImageFeatures:
        """Encodes normalised images (`preprocess_image`) of the model's input size."""
        with self.precision():
            return self._features_of(self.image_encoder.trunk(image.astype(self.dtype)))

    def _features_of(self, stages: tuple[Float[Array, "b _ _ _"], ...]) -> ImageFeatures:
        """What the neck and the decoder's finer levels, if it has any, make of the trunk's stages."""
        *finer, stride16 = self.image_encoder.neck(stages)
        return ImageFeatures(stride16, self.sam_mask_decoder.project(*finer), stages)

    def image_embedding(self, features: ImageFeatures) -> Float[Array, "b h w c"]:
        """What the mask decoder reads at stride 16 when there is no memory: an image, or a video's first frame."""
        return features.embedding + self.no_mem_embed[...].astype(self.dtype)[None]

    def decode(
        self,
        embedding: Float[Array, "b h w c"],
        features: ImageFeatures,
        prompts: Prompts,
        *,
        with_refiner: bool = False,
    ) -> DecoderOutput:
        """Decodes one object per row.

        Args:
          embedding: stride-16 features that the decoder reads: `image_embedding`, or memory-conditioned ones.
          features: the image of each object; gives the finer levels.
          prompts: the objects' prompts.
          with_refiner: take along the refiner's extra tokens, if there is a refiner and it has any.
        """
        extra = self.refiner.extra_tokens() if with_refiner and self.refiner is not None else None
        with self.precision():
            sparse, exists, dense = self.sam_prompt_encoder(prompts)
            image_pe = self.sam_prompt_encoder.image_encoding()
            return self.sam_mask_decoder(embedding, image_pe, sparse, exists, dense, features.high_res, extra)

    def encode(self, images: Float[Array, "b s s 3"], views: Float[Array, "b v s s 3"] | None = None) -> ImageFeatures:
        """All that decoding and refining need of normalised images: `encode_image` and, with a refiner, `prepare`.

        Args:
          images: of the model's input size.
          views: the parts of each image that the refiner looks at more closely, magnified to the input size; cut from
            `images` unless given.
        """
        if self.refiner is None:
            return self.encode_image(images).without_stages()
        return self.prepare(images, *checkpoint_name(self.encode_views(images, views), ENCODED))

    def encode_views(
        self, images: Float[Array, "b s s 3"], views: Float[Array, "b v s s 3"] | None = None
    ) -> tuple[ImageFeatures, Float[Array, "b v h w c"]]:
        """Features of images and stride-16 features of their views, as one batch through the trunk."""
        assert self.refiner is not None
        if views is None:
            views = cut_views(images, self.refiner.view_boxes)
        batch, count = views.shape[:2]
        everything = jnp.concatenate([images[:, None], views.astype(images.dtype)], axis=1).astype(self.dtype)
        with self.precision():
            stages = self.image_encoder.trunk(everything.reshape(-1, *images.shape[1:]))
            stages = tuple(x.reshape(batch, 1 + count, *x.shape[1:]) for x in stages)
            features = self._features_of(tuple(x[:, 0] for x in stages))
            parts = self.image_encoder.neck.stride16(tuple(x[:, 1:].reshape(-1, *x.shape[2:]) for x in stages))
        return features, parts.reshape(batch, count, *parts.shape[1:])

    def prepare(
        self, images: Float[Array, "b s s 3"], features: ImageFeatures, views: Float[Array, "b v h w c"]
    ) -> ImageFeatures:
        """Features with what the refiner keeps of the images, whatever the prompts, in place of the stages."""
        assert self.refiner is not None
        with self.precision():
            prepared = self.refiner.prepare(images.astype(self.dtype), features, views)
        return dataclasses.replace(features, stages=(), refiner=prepared)

    def augment(self, embedding: Float[Array, "b h w c"], features: ImageFeatures) -> Float[Array, "b h w c"]:
        """The decoder's input at stride 16 as the refiner wants it; unchanged without one."""
        if self.refiner is None:
            return embedding
        with self.precision():
            return self.refiner.augment(embedding, features.refiner)

    def refine(
        self,
        features: ImageFeatures,
        output: DecoderOutput,
        masks: Float[Array, "b *k m m"],
        prompts: Prompts,
        carry: Any = None,
    ) -> Refined:
        """Finer masks, one for each that is given.

        Args:
          features: the image of each object, from `encode`.
          output: what the decoder made of it, `with_refiner`.
          masks: of its masks, the logits of the one to refine, or of several, if the refiner takes that.
          prompts: the objects' prompts.
          carry: what the refiner returned at the click before; by default this is the first one.
        """
        assert self.refiner is not None
        if carry is None:
            carry = self.refiner.initial_carry(masks.shape[0])
        with self.precision():
            sparse, exists, _ = self.sam_prompt_encoder(prompts)
            image_pe = self.sam_prompt_encoder.image_encoding()
            return self.refiner(
                RefinerInputs(
                    features.refiner, output, masks, prompts, sparse, exists, image_pe.astype(self.dtype), carry
                )
            )
