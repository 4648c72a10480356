"""A model cut in two, the weights that learn and those that are frozen, and put together again."""

import collections
import dataclasses
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from ..adapters import adapter_names, merge
from ..checkpoints import Weights
from ..config import SAM2Config
from ..nn.weights import decays, part_of, storage_dtype
from ..sam2 import SAM2
from .sharding import weight_sharding

__all__ = ["Skeleton", "describe_parts", "take_apart"]


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A model without its weights: all that is static about it.

    Attributes:
      graph: the structure.
      variables: an abstract variable for each weight's dotted path, in the structure's order.
      trainable: the paths of the weights that learn.
      config: the model's configuration.
      compute_dtype: the computation type, in which the frozen weights are stored.
      adapted: the paths of the frozen matrices beside which adapters learn.
      scale: of the adapters' products.
      rank: of the adapters.
    """

    graph: Any
    variables: tuple[tuple[str, tuple[Any, ...], Any], ...]
    trainable: frozenset[str]
    config: SAM2Config
    compute_dtype: str
    adapted: frozenset[str] = frozenset()
    scale: float = 1.0
    rank: int = 0

    @property
    def decaying(self) -> frozenset[str]:
        """The paths of the weights that weight decay draws to zero."""
        return frozenset(name for name, _, variable in self.variables if decays(variable))

    def assemble(self, params: Weights, frozen: Weights) -> SAM2:
        """The model with these weights."""

        def weight(name: str) -> Any:
            if name in self.adapted:
                a, b = (params[each] for each in adapter_names(name))
                return merge(frozen[name], a, b, self.scale)
            return params[name] if name in self.trainable else frozen[name]

        flat = [(path, variable.replace(weight(name))) for name, path, variable in self.variables]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    @property
    def parts(self) -> frozenset[str]:
        """The parts that learn, be it by adapters."""
        learning = self.trainable | self.adapted
        return frozenset(part_of(v) or "other" for name, _, v in self.variables if name in learning)

    def learning(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of what learns because of a weight: itself, its adapters, or nothing."""
        if name in self.adapted:
            a, b = adapter_names(name)
            return {a: (shape[0], self.rank), b: (self.rank, shape[1])}
        return {name: shape} if name in self.trainable else {}

    def shapes(self) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and types of the weights that learn, which are float32, and of the frozen ones."""
        params: dict[str, jax.ShapeDtypeStruct] = {}
        frozen: dict[str, jax.ShapeDtypeStruct] = {}
        for name, _, variable in self.variables:
            learning = self.learning(name, variable.shape)
            params |= {each: jax.ShapeDtypeStruct(shape, jnp.float32) for each, shape in learning.items()}
            if name not in self.trainable:
                dtype = storage_dtype(variable, self.compute_dtype)
                frozen[name] = jax.ShapeDtypeStruct(variable.shape, dtype)
        return params, frozen


def describe_parts(skeleton: Skeleton, mesh: Mesh | AbstractMesh) -> str:
    """A table of the model's parts: weights, parameters, how many of them learn, and how many each device holds."""
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for name, _, variable in skeleton.variables:
        if not isinstance(variable, nnx.Param):
            continue
        size = math.prod(variable.shape)
        held = math.prod(weight_sharding(mesh, variable.shape).shard_shape(variable.shape))
        learning = sum(map(math.prod, skeleton.learning(name, variable.shape).values()))
        row = {"weights": 1, "parameters": size, "learning": learning, "each device": held}
        for key in (part_of(variable) or "other", "all"):
            rows[key].update(row)
    rows["all"] = rows.pop("all")
    columns = ("weights", "parameters", "learning", "each device")
    lines = [f"{'part':16}" + "".join(f"{column:>14}" for column in columns)]
    lines += [f"{part:16}" + "".join(f"{row[column]:14,}" for column in columns) for part, row in rows.items()]
    return "\n".join(lines)


def take_apart(model: SAM2, skeleton: Skeleton, seed: int = 0) -> tuple[Weights, Weights]:
    """The model's weights that learn, in float32, and the frozen ones, as the computation wants them stored.

    New adapters change nothing: one of their matrices is random, as the seed says, the other one zero.
    """
    values = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(nnx.state(model))}
    params, frozen = skeleton.shapes()

    for name in skeleton.adapted:
        (a, (inputs, rank)), (b, shape) = skeleton.learning(name, values[name].shape).items()
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        values[a] = jnp.asarray(rng.uniform(-(inputs**-0.5), inputs**-0.5, (inputs, rank)), jnp.float32)
        values[b] = jnp.zeros(shape)

    def stored(part):
        return {name: values[name].astype(shape.dtype) for name, shape in part.items()}

    return stored(params), stored(frozen)
