"""How checkpoints name and lay out each of our parameters: all the rules there are, of every format."""

import dataclasses
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sam2refiner_jax.checkpoints import CheckpointError

__all__ = [
    "JOINED",
    "OFFICIAL",
    "TRANSFORMERS",
    "Naming",
    "official_key",
    "official_layout",
    "our_layout",
    "tensor_shapes",
    "torch_axes",
    "torch_key",
    "transformers_keys",
    "weights_in_tensors",
]

# The official modules that are numbered sequences have named parts here.
_SEQUENCES = {
    "mask_downscaling": {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4, "conv3": 6},
    "output_upscaling": {"conv1": 0, "norm": 1, "conv2": 3},
    "embedding_maskfeature": {"conv1": 0, "norm": 1, "conv2": 3},
}
# Refiners whose checkpoints hold the base too, by kind: what stands before their tensors' names there.
JOINED = {"hq_sam2": "sam_mask_decoder."}
_PARAMETERS = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# How the transformers library calls what we call otherwise (`Sam2Model`, `Sam2VideoModel`); each rule goes on from what
# those before it made. A file of `Sam2Model` has the parts before the line about memories.
_TRANSFORMERS = (
    # the image encoder
    (r"^image_encoder\.trunk\b", "vision_encoder.backbone"),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    # the prompt encoder, whose kinds of points are one tensor
    (r"^sam_prompt_encoder\.point_embeddings\.\d\.", "prompt_encoder.point_embed."),
    (
        r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^sam_prompt_encoder\.mask_downscaling\.", "prompt_encoder.mask_embed."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    # the mask decoder
    (r"^sam_mask_decoder\.output_upscaling\.", "mask_decoder.upscale_"),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    # memories
    (r"^memory_encoder\.mask_downsampler\.(conv|norm)s\.(\d)\.", r"memory_encoder.mask_downsampler.layers.\2.\1."),
    (r"^memory_encoder\.mask_downsampler\.out_proj\.", "memory_encoder.mask_downsampler.final_conv."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    # layers of all of them: norms, the output of attention, MLPs of two layers, MLPs of three
    (r"([._])norm(?=[\d._])", r"\1layer_norm"),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"(_mlps\.\d|_head|pointer_proj)\.layers\.0\.", r"\1.proj_in."),
    (r"(_mlps\.\d|_head|pointer_proj)\.layers\.1\.", r"\1.layers.0."),
    (r"(_mlps\.\d|_head|pointer_proj)\.layers\.2\.", r"\1.proj_out."),
)
# Tensors that its files hold once more, under another name.
_TRANSFORMERS_COPIES = {
    "shared_image_embedding.positional_embedding": "prompt_encoder.shared_embedding.positional_embedding"
}


@dataclasses.dataclass(frozen=True)
class Naming:
    """What a format of checkpoints calls the weights of a model.

    Attributes:
      name: of the format, as a user says it.
      keys: gives the name of the tensor that holds the weight at a dotted path of ours, and those of its copies.
        Weights of one name lie in a tensor one after the other, along its first axis.
    """

    name: str
    keys: Callable[[str], tuple[str, ...]]


def official_key(path: str) -> str:
    """The official name of the parameter at our dotted path."""
    for sequence, parts in _SEQUENCES.items():
        for part, index in parts.items():
            path = path.replace(f"{sequence}.{part}.", f"{sequence}.{index}.")
    # The memory encoder's mask downsampler repeats (conv, norm, GELU) four times, then projects.
    path = re.sub(r"mask_downsampler\.convs\.(\d)", lambda m: f"mask_downsampler.encoder.{3 * int(m[1])}", path)
    path = re.sub(r"mask_downsampler\.norms\.(\d)", lambda m: f"mask_downsampler.encoder.{3 * int(m[1]) + 1}", path)
    path = path.replace("mask_downsampler.out_proj", "mask_downsampler.encoder.12")
    return torch_key(path)


def transformers_keys(path: str) -> tuple[str, ...]:
    """The names, in the transformers library, of the tensors that hold the parameter at our dotted path."""
    key = torch_key(path)
    for ours, theirs in _TRANSFORMERS:
        key = re.sub(ours, theirs, key)
    return (key, _TRANSFORMERS_COPIES[key]) if key in _TRANSFORMERS_COPIES else (key,)


OFFICIAL = Naming("official", lambda path: (official_key(path),))
TRANSFORMERS = Naming("transformers", transformers_keys)


def weights_in_tensors(
    described: Mapping[str, nnx.Variable], keys: Callable[[str], tuple[str, ...]]
) -> dict[str, list[str]]:
    """Every tensor of a checkpoint by its name, and the paths of our weights that lie in it one after the other."""
    tensors: dict[str, list[str]] = {}
    for path in described:
        for key in keys(path):
            tensors.setdefault(key, []).append(path)
    return tensors


def tensor_shapes(
    described: Mapping[str, nnx.Variable], keys: Callable[[str], tuple[str, ...]]
) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint by its name, and its shape."""
    shapes = {}
    for key, paths in weights_in_tensors(described, keys).items():
        first = tuple(described[paths[0]].shape[axis] for axis in torch_axes(paths[0], described[paths[0]]))
        shapes[key] = first if len(paths) == 1 else (len(paths) * first[0], *first[1:])
    return shapes


def torch_key(path: str) -> str:
    """The name of the same parameter in a PyTorch module whose submodules have our names."""
    owner, _, name = path.rpartition(".")
    return f"{owner}.{_PARAMETERS.get(name, name)}" if owner else name


def torch_axes(path: str, weight: nnx.Variable) -> tuple[int, ...]:
    """The order in which the axes of our weight stand in PyTorch's tensor, as the weight says (`nn/layers.py`).

    Raises:
      CheckpointError: if it does not say, or says it of other axes than it has.
    """
    layout, rank = weight.get_metadata().get("layout"), len(weight.shape)
    if layout is None and (rank < 2 or path.rpartition(".")[2] != "kernel"):
        return tuple(range(rank))
    ours, _, theirs = (layout or "").partition("->")
    if len(set(ours)) != rank or sorted(ours) != sorted(theirs):
        raise CheckpointError(
            f'{path} must say how PyTorch lays out its {rank} axes, such as layout="io->oi" on its nnx.Param, as the '
            f"layers of sam2refiner_jax.nn.layers do; got {layout!r}"
        )
    return tuple(map(ours.index, theirs))


def official_layout(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Our array as PyTorch's tensor, a copy; `axes` is of `torch_axes`."""
    return np.array(array.transpose(axes), order="C")


def our_layout(tensor: np.ndarray, axes: tuple[int, ...]) -> jax.Array:
    """PyTorch's tensor as our array, a copy; `axes` is of `torch_axes`."""
    return jnp.array(tensor.transpose(np.argsort(axes)))
