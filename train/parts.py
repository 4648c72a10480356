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
from ..provenance import Provenance
from ..refiners.base import build_refiner, kind_of
from ..sam2 import MEMORY_PARTS, SAM2
from .clip_step import check_clip_losses
from .config import ModelConfig, OptimizerConfig, TrainConfig
from .sharding import weight_sharding

__all__ = ["PARTS", "Skeleton", "describe_parts", "make_skeleton", "rates_of", "starting_model", "take_apart"]

# The parts of a model that photos teach (clips alone teach its memory); its weights say which they belong to.
PARTS = ("refiner", "decoder", "object_score", "prompt_encoder", "trunk", "neck")
# Names of several parts.
GROUPS = {"encoder": ("trunk", "neck"), "decoder": ("decoder", "object_score"), "memory": MEMORY_PARTS}
ALL = "all"


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

    @property
    def parts(self) -> frozenset[str]:
        """The parts that learn."""
        return frozenset(part_of(v) or "other" for name, _, v in self.variables if name in self.trainable)

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
        model = build_model(config.name, refiner=config.refiner, image_size=config.image_size, seed=seed)
        model.provenance = Provenance(untrained=tuple(part for part in (*PARTS, *MEMORY_PARTS) if part != "refiner"))
        return model
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
    taught = {*PARTS, *MEMORY_PARTS} if config.data.frames > 1 else {*PARTS}
    learning = {name: part_of(v) for name, _, v in variables if isinstance(v, nnx.Param) and part_of(v) in taught}
    for part in config.trainable:
        names = {name for name, its_part in learning.items() if part == ALL or its_part in GROUPS.get(part, (part,))}
        if not names:
            raise ValueError(f"trainable names {part!r}, of which this model has no weights")
        trainable |= names
    return Skeleton(graph, variables, frozenset(trainable), base, dtype.name)


def _check_parts(config: TrainConfig, *, has_refiner: bool) -> None:
    known = [*dict.fromkeys((*PARTS, *MEMORY_PARTS, *GROUPS)), ALL]
    if not config.trainable:
        raise ValueError(f"trainable must name at least one of {', '.join(known)}, got none")
    for part in config.trainable:
        if part in ("memory", *MEMORY_PARTS) and config.data.frames < 2:
            raise ValueError(f"trainable names {part!r}, which photos do not teach: only videos have a memory")
        if part not in known:
            raise ValueError(f"trainable must be of {', '.join(known)}, got {part!r}")
    if config.data.frames:
        check_clip_losses(config)
        _check_taught_by_clips(config, has_refiner=has_refiner)
        return
    loss = config.loss
    if loss.focal or loss.dice:
        raise ValueError("loss.focal and dice are of clips and must be 0 for photos, which have loss.coarse")
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


def _check_taught_by_clips(config: TrainConfig, *, has_refiner: bool) -> None:
    """Raises a ValueError where a part that is named would get no gradient from clips."""
    loss, mix = config.loss, config.prompts
    refines = has_refiner and bool(loss.final)
    if not (loss.focal or loss.dice or refines):
        raise ValueError("loss.focal, dice and, with a refiner, final must not all be 0: nothing would be learned")
    if "refiner" in config.trainable and has_refiner and not refines:
        raise ValueError("loss.final must not be 0 where the refiner is trained on clips")
    if config.data.frames == 1 and not (mix.box or mix.points or mix.box_and_points):
        raise ValueError("prompts must not be masks alone where clips have one frame: nothing would be learned")


def rates_of(skeleton: Skeleton, config: OptimizerConfig) -> dict[str, float]:
    """The learning rates of trunk and neck, relative to the other parts'.

    As officially: the last block learns at `layer_decay` of the encoder's rate, each one before it at `layer_decay` of
    the next; the first projection comes before all blocks, and positional embeddings are not slowed down.
    """
    trunk = [name for name, _, variable in skeleton.variables if part_of(variable) == "trunk"]
    layers = {name: _layer_of(name) for name in trunk if "pos_embed" not in name}
    after = 1 + max(layers.values(), default=0)
    rates = {name: config.encoder_rate for name, _, v in skeleton.variables if part_of(v) in GROUPS["encoder"]}
    return rates | {name: config.encoder_rate * config.layer_decay ** (after - layer) for name, layer in layers.items()}


def _layer_of(name: str) -> int:
    """The number of the block of a trunk that a weight is in, from 1 on; 0 before them."""
    keys = name.split(".")
    return int(keys[keys.index("blocks") + 1]) + 1 if "blocks" in keys else 0


def take_apart(model: SAM2, skeleton: Skeleton) -> tuple[Weights, Weights]:
    """The model's weights that learn, in float32, and the frozen ones, as the computation wants them stored."""
    values = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(nnx.state(model))}
    params, frozen = skeleton.shapes()

    def stored(part):
        return {name: values[name].astype(shape.dtype) for name, shape in part.items()}

    return stored(params), stored(frozen)
