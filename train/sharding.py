"""Where arrays lie on a mesh of devices with the axes "data" and "model".

The batch is cut over both axes, so that every device has images of its own. Each large weight, with its optimizer
state, is cut over "model" and gathered when it is needed; over "data" it is replicated.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

__all__ = ["batch_sharding", "global_batch", "make_mesh", "replicated", "weight_sharding"]

# Weights with fewer elements are replicated: gathering them would take longer than it saves memory.
SMALLEST_SHARDED = 2**14


def make_mesh(model_parallel: int = 1, devices: Any = None) -> Mesh:
    """All devices of all processes (or those given), `model_parallel` of them along "model".

    Raises:
      ValueError: if `model_parallel` does not divide the number of devices.
    """
    devices = np.asarray(jax.devices() if devices is None else devices)
    if devices.size % model_parallel:
        raise ValueError(f"model_parallel must divide the {devices.size} devices, got {model_parallel}")
    return Mesh(devices.reshape(-1, model_parallel), ("data", "model"))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "model")))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Of arrays that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def weight_sharding(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> NamedSharding:
    """Of a weight, its gradient and its moments: along the longest axis that "model" divides."""
    parts = mesh.shape["model"]
    axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not axes or math.prod(shape) < SMALLEST_SHARDED:
        return replicated(mesh)
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(("model" if axis == longest else None) for axis in range(len(shape)))))


def global_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch of all processes as sharded arrays, from this process's part of it."""
    sharding = batch_sharding(mesh)
    with jax.transfer_guard_host_to_device("allow"):  # this is the one transfer that is meant
        return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}
