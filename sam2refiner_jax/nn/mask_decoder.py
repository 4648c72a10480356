"""The mask decoder (`sam2.modeling.sam.mask_decoder`)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ..config import SAM2Config
from .layers import MLP, UpConv2x2, conv, embedding, gelu, layer_norm
from .two_way_transformer import TwoWayTransformer

__all__ = ["DecoderOutput", "MaskDecoder", "NUM_MASK_TOKENS", "select_single_mask", "stability_score"]

# One mask for unambiguous prompts and three for ambiguous ones.
NUM_MASK_TOKENS = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderOutput:
    """All that the decoder computes for a batch of objects.

    Attributes:
      masks: float32 logits at stride 4. Mask 0 is for unambiguous prompts, 1 to 3 for ambiguous ones.
      iou: predicted IoU of each mask with the truth, in [0, 1].
      object_score_logits: positive where the object is in the image.
      tokens: final output tokens, in the order object score, IoU, the four masks, extra ones, then the prompt's.
      image: the image side of the transformer's output at stride 16.
      upscaled: the same at stride 4, with the encoder's finer features: what masks are products of.
      extra: how many extra tokens there are.
    """

    masks: Float[Array, "b 4 m m"]
    iou: Float[Array, "b 4"]
    object_score_logits: Float[Array, "b 1"]
    tokens: Float[Array, "b t c"]
    image: Float[Array, "b h w c"]
    upscaled: Float[Array, "b _ _ _"]
    extra: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def extra_tokens(self) -> Float[Array, "b k c"]:
        """What became of the extra tokens."""
        return self.tokens[:, 2 + NUM_MASK_TOKENS : 2 + NUM_MASK_TOKENS + self.extra]

    @property
    def mask_tokens(self) -> Float[Array, "b 4 c"]:
        """The tokens the four masks were made from."""
        return self.tokens[:, 2 : 2 + NUM_MASK_TOKENS]

    @property
    def output_tokens(self) -> Float[Array, "b 6 c"]:
        """The tokens of object score, IoU and masks, without the prompt's."""
        return self.tokens[:, : 2 + NUM_MASK_TOKENS]


class OutputUpscaling(nnx.Module):
    """Brings the image side from stride 16 to stride 4, adding the encoder's finer features, if any, on the way."""

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv1 = UpConv2x2(dim, dim // 4, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(dim // 4, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.conv2 = UpConv2x2(dim // 4, dim // 8, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        stride4: Float[Array, "b _ _ _"] | None = None,
        stride8: Float[Array, "b _ _ _"] | None = None,
    ) -> Float[Array, "b _ _ _"]:
        def plus(x, finer):
            return x if finer is None else x + finer

        x = gelu(self.norm(plus(self.conv1(x), stride8)))
        return gelu(plus(self.conv2(x), stride4))


class MaskDecoder(nnx.Module):
    """Turns image features and embedded prompts into masks, their predicted quality and an object score.

    Args:
      config: the model's configuration; its `hidden_dim` and `mlp_dim` are read.
      high_res: whether it reads features at strides 4 and 8 too.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.
    """

    def __init__(self, config: SAM2Config, *, high_res: bool = True, dtype: DTypeLike, rngs: nnx.Rngs):
        dim = config.hidden_dim
        self.dtype = dtype
        self.transformer = TwoWayTransformer(dim, mlp_dim=config.mlp_dim, dtype=dtype, rngs=rngs)
        self.obj_score_token = embedding(1, dim, rngs=rngs)
        self.iou_token = embedding(1, dim, rngs=rngs)
        self.mask_tokens = embedding(NUM_MASK_TOKENS, dim, rngs=rngs)
        if high_res:
            self.conv_s0 = conv(dim, dim // 8, 1, dtype=dtype, rngs=rngs)
            self.conv_s1 = conv(dim, dim // 4, 1, dtype=dtype, rngs=rngs)
        self.output_upscaling = OutputUpscaling(dim, dtype=dtype, rngs=rngs)
        self.output_hypernetworks_mlps = nnx.List(
            MLP((dim, dim, dim, dim // 8), dtype=dtype, rngs=rngs) for _ in range(NUM_MASK_TOKENS)
        )
        self.iou_prediction_head = MLP((dim, dim, dim, NUM_MASK_TOKENS), dtype=dtype, rngs=rngs)
        self.pred_obj_score_head = MLP((dim, dim, dim, 1), dtype=dtype, rngs=rngs)

    def project(self, *levels: Float[Array, "b _ _ c"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """The neck's levels at strides 4 and 8 in the channels in which they are added; () of none."""
        if not levels:
            return ()
        stride4, stride8 = levels
        return self.conv_s0(stride4), self.conv_s1(stride8)

    def __call__(
        self,
        image: Float[Array, "b h w c"],
        image_pe: Float[Array, "h w c"],
        sparse: Float[Array, "b n c"],
        sparse_mask: Bool[Array, "b n"],
        dense: Float[Array, "b h w c"],
        high_res: tuple[Float[Array, "b _ _ _"], ...],
        extra_tokens: Float[Array, "k c"] | None = None,
    ) -> DecoderOutput:
        """Decodes a batch of objects.

        Args:
          image: image features at stride 16, memory-conditioned in a video.
          image_pe: positional encoding of their pixels.
          sparse: embedded points and boxes.
          sparse_mask: which of those tokens exist; the others take no part in attention.
          dense: embedded mask prompt.
          high_res: the features at strides 4 and 8, of `project`.
          extra_tokens: output tokens that are not the decoder's own, to go between its own and the prompt's.
        """
        b, h, w, c = image.shape
        embeds = (self.obj_score_token, self.iou_token, self.mask_tokens)
        extra = [] if extra_tokens is None else [extra_tokens]
        output_tokens = jnp.concatenate([*(e.embedding[...] for e in embeds), *extra]).astype(sparse.dtype)
        tokens = jnp.concatenate([jnp.broadcast_to(output_tokens, (b, *output_tokens.shape)), sparse], axis=1)
        token_mask = jnp.pad(sparse_mask, ((0, 0), (output_tokens.shape[0], 0)), constant_values=True)

        image = (image + dense).reshape(b, h * w, c)
        tokens, image = self.transformer(tokens, image, image_pe.reshape(h * w, c), token_mask)
        image = image.reshape(b, h, w, c)

        upscaled = self.output_upscaling(image, *high_res)
        mask_tokens = tokens[:, 2 : 2 + NUM_MASK_TOKENS]
        weights = jnp.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], axis=1)
        masks = jnp.einsum("bmc,bhwc->bmhw", weights, upscaled, preferred_element_type=jnp.float32)
        return DecoderOutput(
            masks=masks,
            iou=jax.nn.sigmoid(self.iou_prediction_head(tokens[:, 1]).astype(jnp.float32)),
            object_score_logits=self.pred_obj_score_head(tokens[:, 0]).astype(jnp.float32),
            tokens=tokens,
            image=image,
            upscaled=upscaled,
            extra=sum(map(len, extra)),
        )


def stability_score(masks: Float[Array, "*batch h w"], delta: float) -> Float[Array, "*batch"]:
    """IoU of the masks cut `delta` above and `delta` below zero; 1 for a mask that is empty either way."""
    inner = jnp.sum(masks > delta, axis=(-1, -2)).astype(jnp.float32)
    outer = jnp.sum(masks > -delta, axis=(-1, -2)).astype(jnp.float32)
    return jnp.where(outer > 0, inner / jnp.maximum(outer, 1), 1.0)


def select_single_mask(
    output: DecoderOutput, config: SAM2Config
) -> tuple[Float[Array, "b 1 m m"], Float[Array, "b 1"]]:
    """Mask 0 and its predicted IoU or, where mask 0 is unstable, the best of the other three and its own."""
    masks, iou = output.masks[:, :1], output.iou[:, :1]
    if not config.dynamic_multimask_via_stability:
        return masks, iou
    best = 1 + jnp.argmax(output.iou[:, 1:], axis=1)[:, None]
    stable = stability_score(masks, config.dynamic_multimask_stability_delta)
    stable = stable >= config.dynamic_multimask_stability_thresh
    best_masks = jnp.take_along_axis(output.masks, best[:, :, None, None], axis=1)
    best_iou = jnp.take_along_axis(output.iou, best, axis=1)
    return jnp.where(stable[..., None, None], masks, best_masks), jnp.where(stable, iou, best_iou)
