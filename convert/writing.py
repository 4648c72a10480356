"""Converting official checkpoints to directories of ours, and back."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from sam2refiner_jax.atomic import new_file
from sam2refiner_jax.checkpoints import (
    CheckpointError,
    Weights,
    check_shapes,
    describe_refiner,
    describe_weights,
    load_weights,
    read_refiner,
    save_weights,
)
from sam2refiner_jax.config import SAM2Config

from .files import INSTALL_HINT
from .naming import official_key, official_layout, torch_axes, torch_key
from .reading import read_official

__all__ = ["convert_checkpoint", "export_checkpoint", "export_refiner"]


def convert_checkpoint(source: str | os.PathLike[str], directory: str | os.PathLike[str]) -> SAM2Config:
    """Writes an official checkpoint as a directory that `load_model` reads; returns the recognised configuration.

    Raises:
      CheckpointError: if `source` is not an official checkpoint.
      FileExistsError: if `directory` exists already.
    """
    if Path(directory).exists():
        raise FileExistsError(f"{Path(directory).absolute()} exists already; choose another name or remove it")
    config, weights = read_official(source)
    save_weights(directory, config, weights)
    return config


def export_checkpoint(directory: str | os.PathLike[str], path: str | os.PathLike[str]) -> SAM2Config:
    """Writes a checkpoint directory as an official-format .pt; the inverse of `convert_checkpoint`, bit for bit.

    Raises:
      CheckpointError: if `directory` is not a checkpoint.
      FileExistsError: if `path` exists already.
    """
    config, weights = load_weights(directory)
    _save_tensors(path, weights, describe_weights(config), official_key)
    return config


def export_refiner(directory: str | os.PathLike[str], path: str | os.PathLike[str]) -> Any:
    """Writes a refiner checkpoint as a .pt with a PyTorch state dict under "model"; returns its configuration.

    Tensors have the names of our parameters and PyTorch's layouts, so that a PyTorch module with the same parts loads
    them. The configuration's fields are under "config".

    Raises:
      CheckpointError: if `directory` is not a refiner checkpoint.
      FileExistsError: if `path` exists already.
    """
    config, base, weights = read_refiner(directory)
    _save_tensors(path, weights, describe_refiner(config, base), torch_key, config=dataclasses.asdict(config))
    return config


def _save_tensors(
    path: str | os.PathLike[str],
    weights: Weights,
    described: dict[str, nnx.Variable],
    key: Callable[[str], str],
    **more: dict[str, Any],
) -> None:
    check_shapes({name: tuple(v.shape) for name, v in described.items()}, {n: np.shape(w) for n, w in weights.items()})
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"writing {path} needs PyTorch: {INSTALL_HINT}") from error
    tensors = {}
    for ours in list(weights):
        array = np.asarray(weights.pop(ours)).astype(np.float32, copy=False)
        tensors[key(ours)] = torch.from_numpy(official_layout(array, torch_axes(ours, described[ours])))
    with new_file(path) as partial:
        torch.save({"model": tensors, **more}, partial)
