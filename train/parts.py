"""The parts of a model: which of them a run teaches, from where, and how fast."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from ..checkpoints import abstract_model, build_model, load_model
from ..config import SAM2Config
from ..nn.weights import part_of
from ..provenance import Provenance
from ..refiners.base import build_refiner, kind_of
from ..sam2 import MEMORY_PARTS, SAM2
from .clip_step import check_clip_losses
from .config import LoraConfig, ModelConfig, OptimizerConfig, TrainConfig, config_differences
from .skeleton import Skeleton

__all__ = ["PARTS", "make_skeleton", "rates_of", "starting_model"]

# The parts of a model that photos teach (clips alone teach its memory); its weights say which they belong to.
PARTS = ("refiner", "decoder", "object_score", "prompt_encoder", "trunk", "neck")
# Names of several parts.
GROUPS = {"encoder": ("trunk", "neck"), "decoder": ("decoder", "object_score"), "memory": MEMORY_PARTS}
ALL = "all"


def _is_of(part: str | None, name: str) -> bool:
    """Whether a part of a model is, or is among, what a name of `trainable` means."""
    return name == ALL or part in GROUPS.get(name, (name,))


def starting_model(config: ModelConfig, seed: int) -> SAM2:
    """The model that training starts from, in float32; `make_skeleton` gives a checkpoint's the configured input size.

    Raises:
      CheckpointError: if the checkpoint cannot be used.
      ValueError: on an unknown preset or refiner, or another configuration than that of the checkpoint's refiner.
    """
    if config.checkpoint is None:
        model = build_model(config.name, refiner=config.refiner, image_size=config.image_size, seed=seed)
        model.provenance = Provenance(untrained=tuple(part for part in (*PARTS, *MEMORY_PARTS) if part != "refiner"))
    else:
        model = load_model(config.checkpoint)
        if config.refiner is not None:
            if config.fresh_refiner or model.refiner is None or model.refiner.kind != kind_of(config.refiner):
                model = model.with_refiner(build_refiner(config.refiner, model.config, rngs=nnx.Rngs(seed + 1)))
            elif model.refiner.config != config.refiner:
                pair = (dataclasses.asdict(x) for x in (model.refiner.config, config.refiner))
                raise ValueError(
                    f"model.refiner must be as in {config.checkpoint}, whose refiner is trained on: "
                    f"{'; '.join(config_differences(*pair))}. "
                    "None takes it as it is; model.fresh_refiner begins with another"
                )
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
        if _is_of(its_part, part) or fnmatch.fnmatchcase(name, part):
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
    graph, state = nnx.split(abstract_model(base, dtype, refiner))
    flat = nnx.to_flat_state(state)
    variables = tuple((".".join(map(str, path)), path, variable) for path, variable in flat)
    trainable = set()
    taught = {*PARTS, *MEMORY_PARTS} if config.data.frames > 1 else {*PARTS}
    learning = {name: part_of(v) for name, _, v in variables if isinstance(v, nnx.Param) and part_of(v) in taught}
    for part in config.trainable:
        names = {name for name, its_part in learning.items() if _is_of(its_part, part)}
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
            if _is_of(its_part, part)
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
