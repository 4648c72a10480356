"""How the official checkpoints name and lay out each of our parameters: all the rules there are."""

import re

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["official_key", "official_layout", "official_shape", "our_layout", "torch_key"]

# The official modules that are numbered sequences have named parts here.
_SEQUENCES = {
    "mask_downscaling": {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4, "conv3": 6},
    "output_upscaling": {"conv1": 0, "norm": 1, "conv2": 3},
}
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


def _axes(path: str, ndim: int) -> tuple[int, ...]:
    """The order in which our axes stand in the official tensor."""
    name = path.rpartition(".")[2]
    if name in ("pos_embed", "pos_embed_window"):
        return (0, 3, 1, 2)  # NHWC -> NCHW
    if name == "kernel" and ndim == 2:
        return (1, 0)  # in, out -> out, in
    if name == "kernel" and re.search(r"output_upscaling|\bup[12]\b", path):
        return (2, 3, 0, 1)  # H, W, in, out -> in, out, H, W: transposed convolutions
    if name == "kernel":
        return (3, 2, 0, 1)  # H, W, in, out -> out, in, H, W
    return tuple(range(ndim))


def official_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The official tensor's shape for our parameter of `shape`."""
    return tuple(shape[axis] for axis in _axes(path, len(shape)))


def official_layout(path: str, array: np.ndarray) -> np.ndarray:
    """Our array as the official tensor, a copy."""
    return np.array(array.transpose(_axes(path, array.ndim)), order="C")


def our_layout(path: str, tensor: np.ndarray) -> jax.Array:
    """The official tensor as our array, a copy."""
    return jnp.array(tensor.transpose(np.argsort(_axes(path, tensor.ndim))))
