"""A model cut in two: the weights that learn, and those that are frozen."""

import collections
import dataclasses
import fnmatch
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from ..adapters import adapter_names, merge
from ..checkpoints import Weights, build_model, load_model
from ..config import SAM2Config
from ..nn.initializers import NoKeys
from ..nn.weights import decays, part_of, storage_dtype
from ..provenance import Provenance
from ..refiners.base import build_refiner, kind_of
from ..sam2 import MEMORY_PARTS, SAM2
from .clip_step import check_clip_losses
from .config import LoraConfig, ModelConfig, OptimizerConfig, TrainConfig
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


def starting_model(config: ModelConfig, seed: int) -> SAM2:
    """The model that training starts from, in float32; `make_skeleton` gives a checkpoint's the configured input size.

    Raises:
      CheckpointError: if the checkpoint cannot be used.
      ValueError: on an unknown preset or refiner.
    """
    if config.checkpoint is None:
        model = build_model(config.name, refiner=config.refiner, image_size=config.image_size, seed=seed)
        model.provenance = Provenance(untrained=tuple(part for part in (*PARTS, *MEMORY_PARTS) if part != "refiner"))
    else:
        model = load_model(config.checkpoint)
        refiner = model.refiner
        if config.refiner is not None and (refiner is None or refiner.kind != kind_of(config.refiner)):
            refiner = build_refiner(config.refiner, model.config, rngs=nnx.Rngs(seed + 1))
        model = model if refiner is None else model.with_refiner(refiner)
    for each in config.load:
        _load_part(model, each)
    return model


def _load_part(model: SAM2, spec: str) -> None:
    """Replaces the weights of a part by those of another checkpoint; `spec` is PART=CHECKPOINT."""
    part, equals, source = spec.partition("=")
    if not (part and equals and source):
        raise ValueError(f"model.load must be PART=CHECKPOINT, got {spec!r}")
    other = load_model(source)
    of_other = dict(nnx.to_flat_state(nnx.state(other)))
    taken: set[str | None] = set()
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        its_part, name = part_of(variable), ".".join(map(str, path))
        if its_part in GROUPS.get(part, (part,)) or part == ALL or fnmatch.fnmatchcase(name, part):
            found = of_other.get(path)
            if found is None or found.shape != variable.shape:
                what = "no such weight" if found is None else f"one of shape {found.shape}"
                raise ValueError(f"model.load takes {name} of shape {variable.shape} from {source}, which has {what}")
            variable.set_value(found[...])
            taken.add(its_part)
    if not taken:
        raise ValueError(f"model.load names {part!r}, of which this model has no weights")
    before, there = model.provenance, other.provenance.untrained
    left = tuple(each for each in before.untrained if each not in taken or each in there)
    model.provenance = dataclasses.replace(before, untrained=left)


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
    adapted = _adapted(config.lora, variables, learning, trainable)
    return Skeleton(
        graph, variables, frozenset(trainable), base, dtype.name, adapted, config.lora.scale, config.lora.rank
    )


def _adapted(
    lora: LoraConfig, variables: Sequence[tuple[str, Any, Any]], parts: Mapping[str, str | None], trainable: set[str]
) -> frozenset[str]:
    """The matrices that get adapters: of the parts that are named, those whose names match."""
    adapted: set[str] = set()
    shapes = {name: variable.shape for name, _, variable in variables}
    for part in lora.parts if lora.rank else ():
        found = {
            name
            for name, its_part in parts.items()
            if (part == ALL or its_part in GROUPS.get(part, (part,)))
            and len(shapes[name]) == 2
            and min(shapes[name]) > lora.rank
            and fnmatch.fnmatchcase(name, lora.match)
        }
        if not found:
            raise ValueError(
                f"lora.parts names {part!r}, of which no matrix larger than the rank {lora.rank} matches {lora.match!r}"
            )
        if found & trainable:
            raise ValueError(f"lora.parts names {part!r}, which is trainable as a whole already")
        adapted |= found
    return frozenset(adapted)


def _check_parts(config: TrainConfig, *, has_refiner: bool) -> None:
    known = [*dict.fromkeys((*PARTS, *MEMORY_PARTS, *GROUPS)), ALL]
    if not config.trainable and not config.lora.rank:
        raise ValueError(f"trainable must name at least one of {', '.join(known)}, got none")
    for part in (*config.trainable, *(config.lora.parts if config.lora.rank else ())):
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
