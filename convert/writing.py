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
    REFINER_FOLDER,
    CheckpointError,
    Weights,
    check_shapes,
    describe_refiner,
    describe_weights,
    is_checkpoint,
    load_weights,
    read_refiner,
    save_weights,
)
from sam2refiner_jax.config import SAM2Config
from sam2refiner_jax.refiners.base import kind_of

from .files import INSTALL_HINT
from .naming import JOINED, official_key, official_layout, torch_axes, torch_key
from .reading import read_model

__all__ = ["compare_weights", "convert_checkpoint", "export_checkpoint", "export_refiner"]


def convert_checkpoint(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], *, preset: str | None = None
) -> SAM2Config:
    """Writes an official checkpoint as a directory that `load_model` reads; returns the recognised configuration.

    One of HQ-SAM 2 becomes a model with its refiner.

    Args:
      source: see `read_model`.
      directory: to write.
      preset: see `read_model`.

    Raises:
      CheckpointError: if `source` is not an official checkpoint.
      FileExistsError: if `directory` exists already.
      ValueError: if no preset has that name.
    """
    if Path(directory).exists():
        raise FileExistsError(f"{Path(directory).absolute()} exists already; choose another name or remove it")
    found = read_model(source, preset)
    save_weights(directory, found.config, found.weights, refiner=found.refiner)
    return found.config


def compare_weights(ours: Weights, theirs: Weights) -> dict[str, float]:
    """The weights in which two models differ, and how far at most; infinity where one lacks it or has another shape."""
    differences = {}
    for name in sorted(ours.keys() | theirs.keys()):
        pair = [np.asarray(weights[name]) for weights in (ours, theirs) if name in weights]
        if len(pair) < 2 or pair[0].shape != pair[1].shape:
            differences[name] = np.inf
        elif (pair[0] != pair[1]).any():
            differences[name] = float(np.abs(pair[0] - pair[1]).max())
    return differences


def export_checkpoint(directory: str | os.PathLike[str], path: str | os.PathLike[str]) -> SAM2Config:
    """Writes a checkpoint directory as an official-format .pt; the inverse of `convert_checkpoint`, bit for bit.

    A refiner of HQ-SAM 2 that was saved with the model is joined with it, as in its release; one of another kind is
    left out (`export_refiner`).

    Raises:
      CheckpointError: if `directory` is not a checkpoint.
      FileExistsError: if `path` exists already.
    """
    config, weights = load_weights(directory)
    tensors = _as_tensors(weights, describe_weights(config), official_key)
    if is_checkpoint(Path(directory) / REFINER_FOLDER):
        refiner, base, weights = read_refiner(Path(directory) / REFINER_FOLDER)
        prefix = JOINED.get(kind_of(refiner))
        if prefix is not None:
            tensors |= _as_tensors(weights, describe_refiner(refiner, base), lambda ours: prefix + official_key(ours))
    _save(path, tensors)
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
    tensors = _as_tensors(weights, describe_refiner(config, base), torch_key)
    _save(path, tensors, config=dataclasses.asdict(config))
    return config


def _as_tensors(
    weights: Weights, described: dict[str, nnx.Variable], key: Callable[[str], str]
) -> dict[str, np.ndarray]:
    """Weights as PyTorch lays them out, by PyTorch's names; empties `weights` on the way."""
    check_shapes({name: tuple(v.shape) for name, v in described.items()}, {n: np.shape(w) for n, w in weights.items()})
    tensors = {}
    for ours in list(weights):
        array = np.asarray(weights.pop(ours)).astype(np.float32, copy=False)
        tensors[key(ours)] = official_layout(array, torch_axes(ours, described[ours]))
    return tensors


def _save(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], **more: dict[str, Any]) -> None:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"writing {path} needs PyTorch: {INSTALL_HINT}") from error
    with new_file(path) as partial:
        torch.save({"model": {key: torch.from_numpy(array) for key, array in tensors.items()}, **more}, partial)
