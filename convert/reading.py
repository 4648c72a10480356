"""Reading official checkpoints: .pt, .safetensors, or a Hugging Face id."""

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sam2refiner_jax.checkpoints import CheckpointError, Weights, check_shapes, weight_shapes
from sam2refiner_jax.config import PRESETS, SAM2Config

from .naming import official_key, official_shape, our_layout

__all__ = ["read_official", "read_tensors", "recognise", "weights_from_official"]

INSTALL_HINT = "pip install 'sam2refiner_jax[convert]'"


def read_official(source: str | os.PathLike[str]) -> tuple[SAM2Config, Weights]:
    """The configuration and the weights, in our layout, of an official checkpoint.

    Strict: every tensor of the file is used once, every parameter of the model is filled, all shapes are right.

    Args:
      source: path of a .pt or .safetensors file, or a Hugging Face id such as "facebook/sam2.1-hiera-tiny".

    Raises:
      CheckpointError: naming what is wrong with it.
    """
    path = _local_file(source)
    try:
        return weights_from_official(read_tensors(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def weights_from_official(tensors: dict[str, np.ndarray]) -> tuple[SAM2Config, Weights]:
    """The same for tensors in memory, such as those of a PyTorch model's `state_dict()`.

    Empties `tensors` on the way: each is let go as soon as its copy is made, so that a large checkpoint need not fit
    in memory twice.

    Raises:
      CheckpointError: listing missing, surplus and wrongly shaped tensors.
    """
    config = recognise(tensors)
    shapes = weight_shapes(config)
    expected = {official_key(path): official_shape(path, shape) for path, shape in shapes.items()}
    check_shapes(expected, {key: tensor.shape for key, tensor in tensors.items()})
    return config, {path: our_layout(path, _pop_as_float32(tensors, official_key(path))) for path in shapes}


def recognise(tensors: Mapping[str, np.ndarray]) -> SAM2Config:
    """The preset whose checkpoint these tensors are, told from their names and shapes alone.

    Raises:
      CheckpointError: if they are of no SAM 2 model.
    """
    embed = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    if embed is None or "sam_mask_decoder.iou_token.weight" not in tensors:
        if any(key.startswith(("vision_encoder.", "shared_image_embedding.")) for key in tensors):
            raise CheckpointError(
                "this is a checkpoint in the format of the transformers library; use the official .pt of the model"
            )
        raise CheckpointError("these are not the tensors of a SAM 2 model")
    blocks = {match[1] for key in tensors if (match := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", key))}
    is_sam21 = "no_obj_embed_spatial" in tensors or "obj_ptr_tpos_proj.weight" in tensors
    for config in PRESETS.values():
        trunk = config.trunk
        same_trunk = trunk.embed_dim == embed.shape[0] and sum(trunk.stages) == len(blocks)
        if same_trunk and config.no_obj_embed_spatial == is_sam21:
            return config
    raise CheckpointError(
        f"no SAM 2 model has a trunk of {len(blocks)} blocks that starts with {embed.shape[0]} channels"
    )


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .pt or .safetensors file by name; nothing in the file is executed.

    Raises:
      CheckpointError: if the file is damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise CheckpointError("not a file, a checkpoint directory or a Hugging Face id")
    if path.stat().st_size == 0:
        raise CheckpointError("the file is empty")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)


def _read_pt(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"reading it needs PyTorch: {INSTALL_HINT}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "the file is damaged, or holds code or objects besides tensors; nothing in it was executed"
        ) from error
    except Exception as error:  # PyTorch raises many kinds for a damaged file.
        raise CheckpointError(f"damaged or not a PyTorch file: {_first_line(error)}") from error
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise CheckpointError("the file must hold a dictionary of tensors, under 'model' as officially")
    return {key: (t.float() if t.is_floating_point() else t).numpy() for key, t in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise CheckpointError(f"reading it needs safetensors: {INSTALL_HINT}") from error
    try:
        return dict(load_file(path))
    except Exception as error:
        raise CheckpointError(f"damaged or not a safetensors file: {_first_line(error)}") from error


def _local_file(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in (".pt", ".safetensors"):
        return path
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise CheckpointError(f"downloading {source} needs huggingface_hub: {INSTALL_HINT}") from error
    # facebook/sam2.1-hiera-base-plus holds sam2.1_hiera_base_plus.pt, and so do the other seven.
    filename = path.name.replace("-", "_") + ".pt"
    try:
        return Path(hf_hub_download(str(source), filename))
    except Exception as error:
        raise CheckpointError(
            f"{source} is no local file, and {filename} cannot be downloaded from Hugging Face: {_first_line(error)} "
            '("nano" is a small model that comes with the package)'
        ) from error


def _pop_as_float32(tensors: dict[str, np.ndarray], key: str) -> np.ndarray:
    tensor = tensors.pop(key)
    if not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
        raise CheckpointError(f"{key} must hold floating-point numbers, got {tensor.dtype}")
    return tensor.astype(np.float32, copy=False)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
