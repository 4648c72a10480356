"""How the official checkpoints name and lay out each of our parameters: all the rules there are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sam2refiner_jax.checkpoints import CheckpointError

__all__ = ["JOINED", "official_key", "official_layout", "our_layout", "torch_axes", "torch_key"]

# The official modules that are numbered sequences have named parts here.
_SEQUENCES = {
    "mask_downscaling": {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4, "conv3": 6},
    "output_upscaling": {"conv1": 0, "norm": 1, "conv2": 3},
    "embedding_maskfeature": {"conv1": 0, "norm": 1, "conv2": 3},
}
# Refiners whose checkpoints hold the base too, by kind: what stands before their tensors' names there.
JOINED = {"hq_sam2": "sam_mask_decoder."}
_PARAMETERS = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


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
