"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685): two thin matrices beside a frozen one, merged by adding.

Of a matrix of `in` x `out` there are `a`, (in, rank), and `b`, (rank, out); what is computed with is matrix +
scale a b. They are added before anything is computed, so that a model with adapters is a model like any other: no layer
knows of them, and the merged weights are those that were trained with.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .atomic import new_directory
from .checkpoints import CONFIG_FILE, CheckpointError, Weights, read_alone, write_document
from .config import SAM2Config

__all__ = ["Adapters", "adapter_names", "load_adapters", "merge", "merge_adapters", "save_adapters"]

KIND = "adapters"


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters of a model.

    Attributes:
      scale: of the products.
      model: the configuration of the model that they are for.
      weights: both matrices of each adapted one, by the names of `adapter_names`.
    """

    scale: float
    model: SAM2Config
    weights: Weights


def adapter_names(name: str) -> tuple[str, str]:
    """What the two thin matrices of a weight are called."""
    return f"{name}.lora_a", f"{name}.lora_b"


def merge(
    weight: Float[Array | np.ndarray, "i o"],
    a: Float[Array | np.ndarray, "i r"],
    b: Float[Array | np.ndarray, "r o"],
    scale: float,
) -> Float[Array, "i o"]:
    """The weight that is computed with, in the type of the frozen one."""
    product = jnp.matmul(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), precision="highest")
    return (jnp.asarray(weight, jnp.float32) + scale * product).astype(weight.dtype)


def save_adapters(adapters: Adapters, directory: str | os.PathLike[str]) -> None:
    """Writes adapters to a new directory; whole or not at all.

    Raises:
      FileExistsError: if `directory` exists already.
    """
    entry = {"scale": adapters.scale, "model": adapters.model.to_dict()}
    with new_directory(directory) as partial:
        write_document(partial, {KIND: entry}, adapters.weights)


def load_adapters(directory: str | os.PathLike[str]) -> Adapters:
    """Reads what `save_adapters` wrote.

    Raises:
      CheckpointError: if it is no such directory, or is damaged.
    """
    document, weights = read_alone(directory, KIND)
    try:
        entry = document[KIND]
        return Adapters(float(entry["scale"]), SAM2Config.from_dict(entry["model"]), weights)
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{Path(directory) / CONFIG_FILE} does not describe adapters: {error}") from error


def merge_adapters(weights: Mapping[str, Any], adapters: Adapters) -> Weights:
    """A model's weights (`weights_of`, `load_weights`) with adapters merged.

    Raises:
      CheckpointError: if the adapters are not for such a model, naming a weight.
    """
    merged = dict(weights)
    for name in sorted({key.rpartition(".")[0] for key in adapters.weights}):
        a, b = _pair(adapters.weights, name)
        if name not in weights:
            raise CheckpointError(f"adapters are for {name}, which this model has not")
        shape, rank = np.shape(weights[name]), (np.shape(a)[1], np.shape(b)[0])
        if (np.shape(a)[0], np.shape(b)[1]) != shape or rank[0] != rank[1]:
            raise CheckpointError(f"adapters of {name} must fit its shape {shape}, got {np.shape(a)} and {np.shape(b)}")
        merged[name] = merge(weights[name], a, b, adapters.scale)
    return merged


def _pair(weights: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    a, b = (weights.get(each) for each in adapter_names(name))
    if a is None or b is None or np.ndim(a) != 2 or np.ndim(b) != 2:
        raise CheckpointError(f"adapters of {name} must be two matrices")
    return a, b
