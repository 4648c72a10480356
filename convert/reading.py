"""Reading checkpoints, official ones and those of transformers: files, folders of them, or a Hugging Face id."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from sam2refiner_jax.checkpoints import (
    CheckpointError,
    Weights,
    check_finite,
    check_shapes,
    describe_refiner,
    describe_weights,
    is_checkpoint,
)
from sam2refiner_jax.config import PRESETS, SAM2Config
from sam2refiner_jax.refiners import REFINERS

from .files import as_array, open_tensors
from .hub import TRANSFORMERS_CONFIG, local_file
from .naming import (
    JOINED,
    OFFICIAL,
    TRANSFORMERS,
    official_key,
    our_layout,
    tensor_shapes,
    torch_axes,
    weights_in_tensors,
)
from .recognition import find_tensors, have_memory, naming_of, recognise
from .transformers_config import as_preset, config_from_transformers

__all__ = ["OfficialModel", "model_from_tensors", "read_model", "read_official", "weights_from_official"]


@dataclasses.dataclass(frozen=True)
class OfficialModel:
    """What a checkpoint in PyTorch's layout holds, in ours.

    Attributes:
      config: of the model.
      weights: of the model, without a refiner's.
      refiner: the configuration and the weights of the refiner that the file holds as well; None if it holds none.
    """

    config: SAM2Config
    weights: Weights
    refiner: tuple[Any, Weights] | None = None


def read_official(source: str | os.PathLike[str], preset: str | None = None) -> tuple[SAM2Config, Weights]:
    """The configuration and the weights of the model in a checkpoint, as `read_model` finds them."""
    found = read_model(source, preset)
    return found.config, found.weights


def read_model(source: str | os.PathLike[str], preset: str | None = None) -> OfficialModel:
    """What a checkpoint of the official format, or of the transformers library's, holds.

    That is a model of SAM 2 or EfficientTAM, or one of HQ-SAM 2, which is a model and a refiner. Which one is told by
    its tensors; of the transformers library's, by the configuration beside them too, where there is one.

    Strict: every tensor of the model's dictionary is used once, every parameter of the model is filled, all shapes are
    right, all numbers finite. The model may lie under other names in the file (`find_tensors`). Tensors of `Sam2Model`,
    which has no memory, give a model for photos (`SAM2Config.memory`).

    Args:
      source: path of a .pt or .safetensors file, of the index of one in several files, or of a folder that holds one of
        these; or a Hugging Face id such as "facebook/sam2.1-hiera-tiny" or "lkeab/hq-sam".
      preset: the preset that the model is of; told as above unless given, and from the file's name where tensors cannot
        tell (`recognise`).

    Raises:
      CheckpointError: naming what is wrong with it.
      ValueError: if no preset has that name.
    """
    _check_preset(preset)
    path = local_file(source)
    try:
        if is_checkpoint(path):
            raise CheckpointError("this is a checkpoint directory already; it is loaded as it is")
        tensors = find_tensors(open_tensors(path))
        return model_from_tensors(tensors, _config_of(tensors, preset, path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def weights_from_official(tensors: dict[str, Any], preset: str | None = None) -> tuple[SAM2Config, Weights]:
    """The same for tensors in memory, such as a PyTorch model's `state_dict()`.

    Empties `tensors` on the way: each is let go as soon as its copy is made, so that a large checkpoint need not fit
    in memory twice.

    Args:
      tensors: of PyTorch, NumPy or a file (`StoredTensor`), by their official names or those of transformers.
      preset: see `read_model`.

    Raises:
      CheckpointError: listing missing, surplus and wrongly shaped tensors; naming one with NaN or infinities.
    """
    _check_preset(preset)
    found = model_from_tensors(tensors, recognise(tensors, preset))
    return found.config, found.weights


def model_from_tensors(tensors: dict[str, Any], config: SAM2Config) -> OfficialModel:
    """The same with the refiner, if the tensors of one are among them."""
    naming = naming_of(tensors)
    parts = [_Part(describe_weights(config), naming.keys)]
    expected = parts[0].expected(tensors)
    surplus = tensors.keys() - expected.keys()
    kind = None
    # A model's own tensors are no reason to look further, and no refiner has a name in the transformers library.
    for each in JOINED if surplus and naming is OFFICIAL else ():
        part = _joined(each, config)
        keys = part.expected(tensors)
        if surplus & keys.keys():
            kind = each
            parts.append(part)
            expected |= keys
    check_shapes(expected, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    weights, *refiners = [part.pop_from(tensors) for part in parts]
    return OfficialModel(config, weights, None if kind is None else (REFINERS[kind].Config(), refiners[0]))


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a checkpoint: the weights of a model or a refiner, and what their tensors are called."""

    described: Mapping[str, nnx.Variable]
    keys: Callable[[str], tuple[str, ...]]

    def expected(self, tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shapes of its tensors by their names, without copies of tensors that are there, if they are not."""
        shapes = tensor_shapes(self.described, self.keys)
        for keys in map(self.keys, self.described):
            absent = [key for key in keys if key not in tensors]
            for key in absent if len(absent) < len(keys) else ():
                del shapes[key]
        return shapes

    def pop_from(self, tensors: dict[str, Any]) -> Weights:
        """Its weights, whose tensors are taken out of the dictionary."""
        weights: Weights = {}
        for key, paths in weights_in_tensors(self.described, self.keys).items():
            if key not in tensors:
                continue
            tensor = _pop_as_float32(tensors, key)
            for path, part in zip(paths, np.split(tensor, len(paths)) if len(paths) > 1 else [tensor], strict=True):
                ours = our_layout(part, torch_axes(path, self.described[path]))
                if path in weights and not np.array_equal(weights[path], ours):
                    raise CheckpointError(f"{key} must hold the same numbers as {self.keys(path)[0]}")
                weights[path] = ours
        return weights


def _joined(kind: str, base: SAM2Config) -> _Part:
    """The part of a refiner in a checkpoint that holds the base too."""
    refiner = describe_refiner(REFINERS[kind].Config(), base)
    return _Part(refiner, lambda path: (JOINED[kind] + official_key(path),))


def _check_preset(preset: str | None) -> None:
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")


def _config_of(tensors: Mapping[str, Any], preset: str | None, path: Path) -> SAM2Config:
    """What the configuration beside tensors, the tensors themselves or the user say of their model.

    Raises:
      CheckpointError: if these do not agree.
    """
    described = _config_beside(path, tensors)
    if described is None:
        return recognise(tensors, preset, file_name=path.stem)
    if preset is None:
        return described
    config = as_preset(described, preset)
    if config is None:
        raise CheckpointError(f"preset must be {described.name}, as {TRANSFORMERS_CONFIG} describes, got {preset!r}")
    return config


def _config_beside(path: Path, tensors: Mapping[str, Any]) -> SAM2Config | None:
    """What the transformers library's configuration beside its tensors says of their model; None without one."""
    file = (path if path.is_dir() else path.parent) / TRANSFORMERS_CONFIG
    if naming_of(tensors) is not TRANSFORMERS or not file.is_file():
        return None
    try:
        document = json.loads(file.read_bytes())
        if not isinstance(document, dict) or "model_type" not in document:
            return None  # somebody else's file of that name
        memory = document["model_type"] == "sam2_video" or have_memory(tensors)
        return config_from_transformers(document, memory=memory)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name}: {error}") from error


def _pop_as_float32(tensors: dict[str, Any], key: str) -> np.ndarray:
    tensor = tensors.pop(key)
    try:
        array = as_array(tensor) if hasattr(tensor, "detach") else np.asarray(tensor)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise CheckpointError(f"{key} must hold floating-point numbers, got {array.dtype}")
    array = array.astype(np.float32, copy=False)
    check_finite(key, array)
    return array
