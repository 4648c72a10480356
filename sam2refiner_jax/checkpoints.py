"""Building, saving and loading models: an Orbax directory with the configuration beside the weights."""

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from .atomic import new_directory
from .config import SAM2Config, get_config
from .sam2 import SAM2

__all__ = [
    "CheckpointError",
    "Weights",
    "build_model",
    "load_model",
    "load_weights",
    "model_from_weights",
    "save_model",
    "save_weights",
    "weight_shapes",
    "weights_of",
]

# Every parameter and buffer of a model by its dotted path, e.g. "image_encoder.trunk.blocks.0.norm1.scale".
Weights = dict[str, np.ndarray | jax.Array]

CONFIG_FILE = "config.json"
WEIGHTS_FOLDER = "weights"
FORMAT_VERSION = 1
COMPUTE_DTYPES = (jnp.float32, jnp.bfloat16)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


def build_model(name: str, *, image_size: int | None = None, seed: int = 0, dtype: DTypeLike = jnp.float32) -> SAM2:
    """A model with fresh random weights.

    Args:
      name: a preset, such as "sam2.1_hiera_t".
      image_size: side of the square input in pixels, a multiple of 32; the preset's own (1024) unless given.
      seed: of the random weights.
      dtype: computation type, float32 or bfloat16; the weights are float32 either way, for training.

    Raises:
      ValueError: on an unknown name, image size or dtype.
    """
    config = get_config(name)
    if image_size is not None:
        config = SAM2Config.from_dict({**config.to_dict(), "image_size": image_size})
    return SAM2(config, dtype=_compute_dtype(dtype), rngs=nnx.Rngs(seed))


def load_model(source: str | os.PathLike[str], *, dtype: DTypeLike = jnp.float32) -> SAM2:
    """A model with the weights of a checkpoint.

    Args:
      source: a directory written by `save_model` or `sam2refiner convert`, or, with the `convert` extra installed, an
        official .pt, a .safetensors of the same tensors, or a Hugging Face id such as "facebook/sam2.1-hiera-large".
      dtype: computation type, float32 or bfloat16. In bfloat16 the weights of matrix products and convolutions are
        stored so too.

    Raises:
      CheckpointError: if `source` is not such a checkpoint, naming what is wrong with it.
      ValueError: on an unknown dtype.
    """
    dtype = _compute_dtype(dtype)
    if (Path(source) / CONFIG_FILE).is_file():
        config, weights = load_weights(source)
    else:
        config, weights = _official_reader()(source)
    return model_from_weights(config, weights, dtype=dtype)


def save_model(model: SAM2, directory: str | os.PathLike[str]) -> None:
    """Writes the model's configuration and weights to a new directory; it appears whole or not at all.

    Raises:
      FileExistsError: if `directory` exists already.
    """
    save_weights(directory, model.config, weights_of(model))


def weights_of(model: SAM2) -> Weights:
    """The model's parameters and buffers by dotted path."""
    return {path: variable[...] for path, variable in _flat_variables(model).items()}


def weight_shapes(config: SAM2Config) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer of a model of this configuration."""
    return {path: tuple(v.shape) for path, v in _flat_variables(_abstract_model(config, jnp.float32)).items()}


def model_from_weights(config: SAM2Config, weights: Mapping[str, Any], *, dtype: DTypeLike = jnp.float32) -> SAM2:
    """A model made of given weights; `weights` must name exactly its parameters, in its shapes.

    Raises:
      CheckpointError: listing missing, surplus and wrongly shaped weights.
    """
    dtype = _compute_dtype(dtype)
    model = _abstract_model(config, dtype)
    variables = _flat_variables(model)
    check_shapes({p: tuple(v.shape) for p, v in variables.items()}, {p: np.shape(w) for p, w in weights.items()})
    for path, variable in variables.items():
        # Products and convolutions compute in `dtype` anyway; norms, embeddings and tokens stay float32.
        stored = dtype if path.endswith((".kernel", ".bias")) and "norm" not in path else jnp.float32
        variable.set_value(jnp.asarray(weights[path], dtype=stored))
    return model


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a CheckpointError that lists the differences, if there are any."""
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected {name} {shape}" for name, shape in found.items() if name not in expected]
    problems += [
        f"{name} must have shape {expected[name]}, got {shape}"
        for name, shape in found.items()
        if name in expected and shape != expected[name]
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"the weights do not fit the model: {shown}")


def save_weights(directory: str | os.PathLike[str], config: SAM2Config, weights: Mapping[str, Any]) -> None:
    """Writes a checkpoint directory; see `save_model`."""
    import orbax.checkpoint as ocp

    with new_directory(directory) as partial:
        document = {"format": FORMAT_VERSION, "model": config.to_dict()}
        (partial / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n")
        # Weights hardly compress. Orbax copies NumPy arrays before it writes them, but not JAX arrays.
        with ocp.PyTreeCheckpointer(use_compression=False) as checkpointer:
            checkpointer.save(partial / WEIGHTS_FOLDER, {path: jnp.asarray(w) for path, w in weights.items()})


def load_weights(directory: str | os.PathLike[str]) -> tuple[SAM2Config, Weights]:
    """Reads a checkpoint directory.

    Raises:
      CheckpointError: if it is not one, or is damaged.
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    try:
        document = json.loads((directory / CONFIG_FILE).read_text())
        if document["format"] != FORMAT_VERSION:
            raise ValueError(f"format {document['format']} is not {FORMAT_VERSION}, the one this version reads")
        config = SAM2Config.from_dict(document["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory / CONFIG_FILE} is not a model configuration: {error}") from error
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            args = {p: ocp.ArrayRestoreArgs(sharding=device, strict=True) for p in weight_shapes(config)}
            weights = checkpointer.restore(directory / WEIGHTS_FOLDER, restore_args=args)
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged directory.
        reason = str(error).strip().splitlines()
        raise CheckpointError(f"cannot read the weights in {directory}: {reason[0] if reason else error!r}") from error
    return config, weights


def _compute_dtype(dtype: DTypeLike) -> np.dtype:
    if jnp.dtype(dtype) not in [jnp.dtype(d) for d in COMPUTE_DTYPES]:
        raise ValueError(f"dtype must be float32 or bfloat16, got {jnp.dtype(dtype).name}")
    return jnp.dtype(dtype)


class _SameKey(nnx.Rngs):
    """Gives the same key every time: shapes do not depend on it, and counting under a trace takes quadratic time."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def _abstract_model(config: SAM2Config, dtype: DTypeLike) -> SAM2:
    return nnx.eval_shape(lambda: SAM2(config, dtype=dtype, rngs=_SameKey()))


def _flat_variables(model: SAM2) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(model))}


def _official_reader():
    """The reader of official checkpoints; it lives in another package, which the library does not import."""
    readers = importlib.metadata.entry_points(group="sam2refiner_jax.checkpoint_readers", name="official")
    for reader in readers:
        return reader.load()
    raise CheckpointError("the converter of official checkpoints is not installed; reinstall sam2refiner_jax")
