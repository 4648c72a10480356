"""Converting checkpoints of PyTorch's layout to directories of ours, and back."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from sam2refiner_jax.atomic import new_directory, new_file
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
from .hub import TRANSFORMERS_CONFIG, TRANSFORMERS_WEIGHTS
from .model_card import CHECKPOINTS_CARD, model_card
from .naming import (
    JOINED,
    OFFICIAL,
    TRANSFORMERS,
    official_key,
    official_layout,
    torch_axes,
    torch_key,
    weights_in_tensors,
)
from .reading import read_model
from .transformers_config import processor_configs, transformers_config

__all__ = [
    "as_tensors",
    "compare_weights",
    "convert_checkpoint",
    "export_checkpoint",
    "export_refiner",
    "export_transformers",
]


def convert_checkpoint(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], *, preset: str | None = None
) -> SAM2Config:
    """Writes a checkpoint that `read_model` reads as a directory of ours; returns the recognised configuration.

    One of HQ-SAM 2 becomes a model with its refiner.

    Args:
      source: see `read_model`.
      directory: to write.
      preset: see `read_model`.

    Raises:
      CheckpointError: if `source` is no such checkpoint.
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
      CheckpointError: if `directory` is not a checkpoint, or is one without a memory.
      FileExistsError: if `path` exists already.
    """
    config, weights = load_weights(directory)
    if not config.memory:
        raise CheckpointError(
            f"{directory} must hold a memory's weights, which all official checkpoints do; it is a model for photos "
            "alone, which the format of transformers has"
        )
    tensors = as_tensors(weights, describe_weights(config), OFFICIAL.keys)
    if is_checkpoint(Path(directory) / REFINER_FOLDER):
        refiner, base, weights = read_refiner(Path(directory) / REFINER_FOLDER)
        prefix = JOINED.get(kind_of(refiner))
        if prefix is not None:
            tensors |= as_tensors(weights, describe_refiner(refiner, base), lambda ours: (prefix + official_key(ours),))
    _save(path, tensors)
    return config


def export_transformers(directory: str | os.PathLike[str], folder: str | os.PathLike[str]) -> SAM2Config:
    """Writes a checkpoint directory as a folder that the transformers library reads; returns its configuration.

    `Sam2Model.from_pretrained(folder)` and `Sam2VideoModel.from_pretrained(folder)` find all their tensors in it, the
    latter where the library has such a model (`transformers_config.is_of_videos`); `read_model` reads it back, bit for
    bit. A model card and the settings of the library's processors are written too. A refiner is left out.

    Raises:
      CheckpointError: if `directory` is not a checkpoint of a model, or is of one that the library does not have.
      FileExistsError: if `folder` exists already.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise CheckpointError(f"writing {folder} needs safetensors: {INSTALL_HINT}") from error
    with new_directory(folder) as partial:
        config, weights = load_weights(directory)
        card = Path(directory) / CHECKPOINTS_CARD
        parameters = sum(np.size(weight) for weight in weights.values())
        kept = Path(directory) / REFINER_FOLDER
        refiner = kind_of(read_refiner(kept)[0]) if is_checkpoint(kept) else None
        (partial / "README.md").write_text(model_card(config, parameters, card=card.is_file(), refiner=refiner))
        if card.is_file():
            (partial / CHECKPOINTS_CARD).write_bytes(card.read_bytes())
        for name, document in {TRANSFORMERS_CONFIG: transformers_config(config), **processor_configs(config)}.items():
            (partial / name).write_text(json.dumps(document, indent=2) + "\n")
        tensors = as_tensors(weights, describe_weights(config), TRANSFORMERS.keys)
        save_file(tensors, partial / TRANSFORMERS_WEIGHTS, metadata={"format": "pt"})
        # safetensors makes files that their owner alone may read.
        (partial / TRANSFORMERS_WEIGHTS).chmod((partial / TRANSFORMERS_CONFIG).stat().st_mode)
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
    tensors = as_tensors(weights, describe_refiner(config, base), lambda ours: (torch_key(ours),))
    _save(path, tensors, config=dataclasses.asdict(config))
    return config


def as_tensors(
    weights: Weights, described: dict[str, nnx.Variable], keys: Callable[[str], tuple[str, ...]]
) -> dict[str, np.ndarray]:
    """Weights as PyTorch lays them out, by a format's names; empties `weights` on the way."""
    check_shapes({name: tuple(v.shape) for name, v in described.items()}, {n: np.shape(w) for n, w in weights.items()})

    def take(path: str, key: str) -> np.ndarray:
        weight = weights.pop(path) if key == keys(path)[-1] else weights[path]
        return official_layout(np.asarray(weight).astype(np.float32, copy=False), torch_axes(path, described[path]))

    tensors = {}
    for key, paths in weights_in_tensors(described, keys).items():
        parts = [take(path, key) for path in paths]
        tensors[key] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return tensors


def _save(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], **more: dict[str, Any]) -> None:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"writing {path} needs PyTorch: {INSTALL_HINT}") from error
    with new_file(path) as partial:
        torch.save({"model": {key: torch.from_numpy(array) for key, array in tensors.items()}, **more}, partial)
