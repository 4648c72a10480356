"""A model cut in two: the weights that learn, and those that are frozen."""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from ..checkpoints import Weights, build_model, load_model
from ..config import SAM2Config
from ..nn.initializers import NoKeys
from ..nn.weights import decays, part_of, storage_dtype
from ..refiners.base import build_refiner, kind_of
from ..sam2 import SAM2
from .config import ModelConfig, TrainConfig
from .sharding import weight_sharding

__all__ = ["PARTS", "Skeleton", "describe_parts", "make_skeleton", "starting_model", "take_apart"]

# The parts of a model that photos teach; its weights say which they belong to. Its memory is another, of videos alone.
PARTS = ("refiner", "decoder", "prompt_encoder", "encoder")
MEMORY, ALL = "memory", "all"


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A model without its weights: all that is static about it.

    Attributes:
      graph: the structure.
      variables: an abstract variable for each weight's dotted path, in the structure's order.
      trainable: the paths of the weights that learn.
      config: the model's configuration.
      compute_dtype: the computation type, in which the frozen weights are stored.
    """

    graph: Any
    variables: tuple[tuple[str, tuple[Any, ...], Any], ...]
    trainable: frozenset[str]
    config: SAM2Config
    compute_dtype: str

    @property
    def decaying(self) -> frozenset[str]:
        """The paths of the weights that weight decay draws to zero."""
        return frozenset(name for name, _, variable in self.variables if decays(variable))

    def assemble(self, params: Weights, frozen: Weights) -> SAM2:
        """The model with these weights."""
        flat = [
            (path, variable.replace(params[name] if name in self.trainable else frozen[name]))
            for name, path, variable in self.variables
        ]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def shapes(self) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and types of the weights that learn, which are float32, and of the frozen ones."""
        params: dict[str, jax.ShapeDtypeStruct] = {}
        frozen: dict[str, jax.ShapeDtypeStruct] = {}
        for name, _, variable in self.variables:
            learns = name in self.trainable
            dtype = jnp.float32 if learns else storage_dtype(variable, self.compute_dtype)
            (params if learns else frozen)[name] = jax.ShapeDtypeStruct(variable.shape, dtype)
        return params, frozen


def describe_parts(skeleton: Skeleton, mesh: Mesh | AbstractMesh) -> str:
    """A table of the model's parts: weights, parameters, how many of them learn, and how many each device holds."""
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for name, _, variable in skeleton.variables:
        if not isinstance(variable, nnx.Param):
            continue
        size = math.prod(variable.shape)
        held = math.prod(weight_sharding(mesh, variable.shape).shard_shape(variable.shape))
        row = {"weights": 1, "parameters": size, "learning": size * (name in skeleton.trainable), "each device": held}
        for key in (part_of(variable) or "other", "all"):
            rows[key].update(row)
    rows["all"] = rows.pop("all")
    columns = ("weights", "parameters", "learning", "each device")
    lines = [f"{'part':16}" + "".join(f"{column:>14}" for column in columns)]
    lines += [f"{part:16}" + "".join(f"{row[column]:14,}" for column in columns) for part, row in rows.items()]
    return "\n".join(lines)


def starting_model(config: ModelConfig, seed: int) -> SAM2:
    """The model that training starts from, in float32; `make_skeleton` gives a checkpoint's the configured input size.

    Raises:
      CheckpointError: if the checkpoint cannot be used.
      ValueError: on an unknown preset or refiner.
    """
    if config.checkpoint is None:
        return build_model(config.name, refiner=config.refiner, image_size=config.image_size, seed=seed)
    model = load_model(config.checkpoint)
    refiner = model.refiner
    if config.refiner is not None and (refiner is None or refiner.kind != kind_of(config.refiner)):
        refiner = build_refiner(config.refiner, model.config, rngs=nnx.Rngs(seed + 1))
    return model if refiner is None else model.with_refiner(refiner)


def make_skeleton(config: TrainConfig, base: SAM2Config, refiner: Any) -> Skeleton:
    """The model of `base` and a configuration of a refiner, if any, divided as `config.trainable` says.

    Raises:
      ValueError: if `trainable` names an unknown part, one that the model does not have, one that nothing in this run
        teaches, or nothing.
    """
    _check_parts(config, has_refiner=refiner is not None)
    size = config.model.image_size or base.image_size
    base = dataclasses.replace(base, image_size=size)
    dtype = jnp.dtype(config.model.dtype)

    def build():
        rngs = NoKeys()
        made = None if refiner is None else build_refiner(refiner, base, dtype=dtype, rngs=rngs)
        return SAM2(base, dtype=dtype, refiner=made, rngs=rngs)

    graph, state = nnx.split(nnx.eval_shape(build))
    flat = nnx.to_flat_state(state)
    variables = tuple((".".join(map(str, path)), path, variable) for path, variable in flat)
    trainable = set()
    learning = {name: part_of(v) for name, _, v in variables if isinstance(v, nnx.Param) and part_of(v) in PARTS}
    for part in config.trainable:
        names = {name for name, its_part in learning.items() if part in (ALL, its_part)}
        if not names:
            raise ValueError(f"trainable names {part!r}, of which this model has no weights")
        trainable |= names
    return Skeleton(graph, variables, frozenset(trainable), base, dtype.name)


def _check_parts(config: TrainConfig, *, has_refiner: bool) -> None:
    known = [*PARTS, ALL]
    if not config.trainable:
        raise ValueError(f"trainable must name at least one of {', '.join(known)}, got none")
    for part in config.trainable:
        if part == MEMORY:
            raise ValueError("trainable names 'memory', which photos do not teach: only videos have a memory")
        if part not in known:
            raise ValueError(f"trainable must be of {', '.join(known)}, got {part!r}")
    loss = config.loss
    refines = has_refiner and bool(loss.final or loss.auxiliary or loss.blends)
    if not loss.coarse and not refines:
        what = (
            "loss.coarse, final, auxiliary and blends must not all"
            if has_refiner
            else "without a refiner, loss.coarse must not"
        )
        raise ValueError(f"{what} be 0: nothing would be learned")
    if set(config.trainable) == {"refiner"} and has_refiner and not refines:
        raise ValueError("loss.final, auxiliary and blends must not all be 0 where the refiner alone is trained")


def take_apart(model: SAM2, skeleton: Skeleton) -> tuple[Weights, Weights]:
    """The model's weights that learn, in float32, and the frozen ones, as the computation wants them stored."""
    values = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(nnx.state(model))}
    params, frozen = skeleton.shapes()

    def stored(part):
        return {name: values[name].astype(shape.dtype) for name, shape in part.items()}

    return stored(params), stored(frozen)
