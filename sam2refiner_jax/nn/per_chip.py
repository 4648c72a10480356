"""What XLA cannot divide among chips by itself runs on each chip's part of the batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

__all__ = ["Count", "divides_over_mesh", "on_every_chip"]

# How many there are of something: an int, or what `jax.export.symbolic_shape` makes where a program is for any number.
Count = Any


def divides_over_mesh(batch: Count) -> bool:
    """Whether every chip of the mesh that the program is traced for gets as many of the batch's elements.

    Not of a batch of any number, whose programs have no kernels: those are compiled for a number.
    """
    if not isinstance(batch, int):
        return False
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return batch % math.prod(sizes[name] for name in _free_axes()) == 0


def _free_axes() -> tuple[str, ...]:
    """Axes of the ambient mesh that no `jax.shard_map` around here has taken."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual)


def on_every_chip(function: Callable[..., Array], *arrays: Array, shared: tuple[Array, ...] = ()) -> Array:
    """`function` of each chip's part of the arrays' first axis, and of arrays after them that all chips have whole."""
    axes = _free_axes()
    if not axes:
        return function(*arrays, *shared)
    part = PartitionSpec(axes)
    specs = (part,) * len(arrays) + (PartitionSpec(),) * len(shared)
    mapped = jax.shard_map(function, in_specs=specs, out_specs=part, axis_names=set(axes), check_vma=False)
    return mapped(*arrays, *shared)
