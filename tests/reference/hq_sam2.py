"""HQ-SAM 2 in PyTorch: the official package's mask decoder with what the release adds to it."""

import jax.numpy as jnp
import torch
from flax import nnx
from official import randomise
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam2_utils import MLP, LayerNorm2d

from sam2refiner_jax import SAM2, HQSAM2Config
from sam2refiner_jax.convert.naming import official_key, our_layout, torch_axes
from sam2refiner_jax.refiners import build_refiner


class HQMaskDecoder(MaskDecoder):
    """A seventh output token, behind the masks' and before the prompt's, and its mask, added to each of the others.

    Attributes:
      hq_token_only: give its mask alone.
    """

    hq_token_only = False

    def forward(self, image_embeddings, image_pe, sparse_prompt_embeddings, *args, **kwargs):
        seen = {}

        def keep_tokens(module, inputs, outputs):
            seen["tokens"] = outputs[0]

        def keep_upscaled(module, inputs, output):
            seen["upscaled"] = output

        handles = [
            self.transformer.register_forward_hook(keep_tokens),
            self.output_upscaling[-1].register_forward_hook(keep_upscaled),
        ]
        token = self.hf_token.weight.expand(len(sparse_prompt_embeddings), 1, -1)
        sparse = torch.cat([token, sparse_prompt_embeddings], dim=1)
        try:
            masks, *others = super().forward(image_embeddings, image_pe, sparse, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        features = self.embedding_maskfeature(seen["upscaled"])
        hq = torch.einsum("bc,bchw->bhw", self.hf_mlp(seen["tokens"][:, 6]), features)[:, None]
        return hq if self.hq_token_only else masks + hq, *others


def make_hq(official: torch.nn.Module, seed: int = 7) -> torch.nn.Module:
    """The official model as one of HQ-SAM 2, all that is new with random weights."""
    decoder, dim = official.sam_mask_decoder, official.hidden_dim
    new = {
        "hf_token": torch.nn.Embedding(1, dim),
        "hf_mlp": MLP(dim, dim, dim // 8, 3),
        "embedding_maskfeature": torch.nn.Sequential(
            torch.nn.Conv2d(dim // 8, dim // 4, 3, padding=1),
            LayerNorm2d(dim // 4),
            torch.nn.GELU(),
            torch.nn.Conv2d(dim // 4, dim // 8, 3, padding=1),
        ),
    }
    torch.manual_seed(seed)
    for name, module in new.items():
        for layer in module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        setattr(decoder, name, randomise(module, seed).eval())
    decoder.__class__ = HQMaskDecoder
    return official


def with_refiner_of(official: torch.nn.Module, model: SAM2, config: HQSAM2Config | None = None) -> SAM2:
    """Our model with the refiner of an official one that `make_hq` made."""
    refiner = build_refiner(config or HQSAM2Config(), model.config, rngs=nnx.Rngs(0))
    tensors = official.sam_mask_decoder.state_dict()
    for path, variable in nnx.to_flat_state(nnx.state(refiner)):
        name = ".".join(map(str, path))
        tensor = tensors[official_key(name)].numpy()
        variable.set_value(jnp.asarray(our_layout(tensor, torch_axes(name, variable))))
    return model.with_refiner(refiner)
