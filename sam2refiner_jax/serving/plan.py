"""What using a model costs on a chip that is not there: the programs of the predictors, compiled for it."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..checkpoints import build_model
from ..hardware.chips import Chip, chip_mesh, chip_of, parse_shape
from ..hardware.compiled_cost import CompiledCost, OutOfMemory, cost_or_shortage
from ..hardware.operations import Operation, describe_costliest
from ..image.encoding import encode_photos
from ..image.predictor import decode_prompts, refine_prompts
from ..image.prompts import CLICK_SLOTS
from ..nn.prompt_encoder import Prompts
from ..nn.weights import storage_dtype
from ..sam2 import SAM2
from ..video.memory_bank import MemoryBank, ObjectFrames
from ..video.tracking import advance, encode_frames

__all__ = ["PlannedProgram", "UsePlan", "model_to_plan", "plan_everything", "plan_segment", "plan_track"]

# Points of a grid that are decoded at once (`SAM2AutomaticMaskGenerator`).
POINTS_PER_BATCH = 64


@dataclasses.dataclass(frozen=True)
class PlannedProgram:
    """A program and what it costs a chip.

    Attributes:
      name: what it does.
      runs: how often it runs for a batch of photos or frames.
      compile_seconds: that the compiler took here.
      cost: of one run; None where the compiler found that it does not fit.
      shortage: what it needed then.
    """

    name: str
    runs: int
    compile_seconds: float
    cost: CompiledCost | None
    shortage: OutOfMemory | None = None


@dataclasses.dataclass(frozen=True)
class UsePlan:
    """The cost of a use of a model.

    Attributes:
      unit: what is counted, "photo" or "frame".
      units: how many of them a chip has at a time.
      chips: how many chips work side by side; nothing is exchanged between them.
      chip: their kind.
      programs: that run for these units.
    """

    unit: str
    units: int
    chips: int
    chip: Chip
    programs: tuple[PlannedProgram, ...]

    @property
    def fits(self) -> bool:
        return all(program.cost is not None for program in self.programs)

    @property
    def roofline_seconds(self) -> float:
        """Of a batch, at the chip's published speed."""
        return sum(p.runs * p.cost.roofline_seconds for p in self.programs if p.cost is not None)

    @property
    def estimated_seconds(self) -> float:
        """Of a batch, by the compiler's estimate."""
        return sum(p.runs * p.cost.estimated_seconds for p in self.programs if p.cost is not None)

    @property
    def operations(self) -> list[Operation]:
        """What all programs run for a batch."""
        return [
            dataclasses.replace(
                operation,
                count=p.runs * operation.count,
                off_chip_bytes=p.runs * operation.off_chip_bytes,
                seconds=p.runs * operation.seconds,
            )
            for p in self.programs
            if p.cost is not None
            for operation in p.cost.operations
        ]

    def report(self, lines: int = 10) -> str:
        """The plan in words and figures, with so many of its costliest lines of source."""
        head = f"{self.chips} x {self.chip.name}, {self.units} {self.unit}{'s' * (self.units > 1)} at a time on a chip"
        parts = [head, *map(_describe, self.programs)]
        if not self.fits:
            return "\n\n".join(parts)
        rates = [
            f"at best                     {1e3 * self.roofline_seconds:.2f} ms, "
            f"{self._rate(self.roofline_seconds):.0f} {self.unit}s a second"
        ]
        if self.estimated_seconds:
            rates.append(
                f"by the compiler's estimate  {1e3 * self.estimated_seconds:.2f} ms, "
                f"{self._rate(self.estimated_seconds):.0f} {self.unit}s a second"
            )
        parts.append("\n".join([f"together, on {self.chips} chip{'s' * (self.chips > 1)}", *rates]))
        if rows := describe_costliest(self.operations, lines):
            parts.append("\n".join(rows))
        return "\n\n".join(parts)

    def _rate(self, seconds: float) -> float:
        return self.chips * self.units / seconds


def _describe(program: PlannedProgram) -> str:
    head = f"{program.name}, {program.runs} x, compiled in {program.compile_seconds:.0f} s"
    if program.cost is None:
        assert program.shortage is not None
        needed, available = (x / 2**30 for x in (program.shortage.needed, program.shortage.available))
        return f"{head}\nDOES NOT FIT: a chip would need {needed:.2f} GiB of the {available:.2f} GiB it has"
    return f"{head}\n{program.cost.table()}"


def model_to_plan(name: str, *, refiner: Any = None, image_size: int | None = None, dtype: str = "bfloat16") -> SAM2:
    """A model of shapes alone, whose weights are stored as `load_model` stores them.

    Raises:
      ValueError: see `build_model`.
    """
    model = jax.eval_shape(lambda: build_model(name, refiner=refiner, image_size=image_size, dtype=dtype))

    def stored(weight: Any) -> Any:
        if not isinstance(weight, nnx.Param):
            return weight
        value = jax.ShapeDtypeStruct(weight.get_raw_value().shape, storage_dtype(weight, dtype))
        return weight.replace(value)

    return jax.tree.map(stored, model, is_leaf=lambda node: isinstance(node, nnx.Variable))


def plan_segment(model: SAM2, topology: str, *, batch: int = 1, objects: int = 1) -> UsePlan:
    """Photos segmented from clicks or boxes: the encoder, and the decoder with the refiner if there is one.

    Args:
      model: from `model_to_plan`, or any other.
      topology: chips by kind and shape, such as "v5e:1x1" or "v5e:4x4", which need not be there; each works alone.
      batch: photos at a time on a chip.
      objects: in each photo.

    Raises:
      ValueError: on an unknown topology, or numbers below 1.
    """
    _check(batch=batch, objects=objects)
    rows = batch * objects

    def to_decode(model: SAM2) -> tuple[Any, ...]:
        photos = encode_photos(model, _photos(model, batch))
        return model, photos, jnp.zeros(rows, jnp.int32), _prompts(model, rows)

    def to_refine(model: SAM2) -> tuple[Any, ...]:
        assert model.refiner is not None
        return *to_decode(model), jnp.zeros((), bool), model.refiner.initial_carry(rows)

    programs = [_Program("encode", encode_photos, lambda model: (model, _photos(model, batch)))]
    if model.refiner is None:
        programs.append(_Program("decode", decode_prompts, to_decode))
    else:
        programs.append(_Program("decode and refine", refine_prompts, to_refine))
    return _plan("photo", batch, topology, model, programs)


def plan_track(model: SAM2, topology: str, *, batch: int = 1, objects: int = 1) -> UsePlan:
    """Videos tracked, all memories there: the encoder of a frame, and the step of its objects.

    Args:
      model: from `model_to_plan`, or any other.
      topology: see `plan_segment`.
      batch: videos side by side on a chip.
      objects: in each video.

    Raises:
      ValueError: on an unknown topology, or numbers below 1.
    """
    _check(batch=batch, objects=objects)
    rows = batch * objects

    def frames(model: SAM2) -> Any:
        return jnp.zeros((batch, *[model.config.image_size] * 2, 3), jnp.uint8)

    def to_track(model: SAM2) -> tuple[Any, ...]:
        zeros = jnp.zeros(rows, jnp.int32)
        where = ObjectFrames(zeros, zeros, zeros, jnp.zeros(rows, bool))
        bank = jax.tree.map(jnp.asarray, MemoryBank.empty(model.config, rows))
        origins = None if model.refiner is None else _prompts(model, rows)
        return model, bank, encode_frames(model, frames(model)), where, jnp.ones(rows, bool), origins

    programs = [
        _Program("encode", encode_frames, lambda model: (model, frames(model))),
        _Program("track", advance, to_track),
    ]
    return _plan("frame", batch, topology, model, programs)


def plan_everything(model: SAM2, topology: str, *, points_per_side: int = 32) -> UsePlan:
    """All masks of a photo: the encoder, and the decoder at a grid of points.

    Measuring and refining the masks that are good, which are fewer or more from photo to photo, is not in it.

    Args:
      model: from `model_to_plan`, or any other.
      topology: see `plan_segment`.
      points_per_side: of the grid.

    Raises:
      ValueError: on an unknown topology, or a number below 1.
    """
    _check(points_per_side=points_per_side)
    batches = -(-(points_per_side**2) // POINTS_PER_BATCH)

    def to_decode(model: SAM2) -> tuple[Any, ...]:
        photos, points = encode_photos(model, _photos(model, 1)), POINTS_PER_BATCH
        return model, photos, jnp.zeros(points, jnp.int32), _prompts(model, points)

    programs = [
        _Program("encode", encode_photos, lambda model: (model, _photos(model, 1))),
        _Program("decode", decode_prompts, to_decode, batches),
    ]
    return _plan("photo", 1, topology, model, programs)


@dataclasses.dataclass(frozen=True)
class _Program:
    """A function of what `arguments` makes of the model, by shapes alone, and how often it runs."""

    name: str
    function: Callable[..., Any]
    arguments: Callable[[SAM2], tuple[Any, ...]]
    runs: int = 1


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _plan(unit: str, units: int, topology: str, model: SAM2, programs: Sequence[_Program]) -> UsePlan:
    chip, shape = chip_of(topology), parse_shape(topology)
    mesh = chip_mesh(chip)
    planned = tuple(_compile(program, model, mesh, chip) for program in programs)
    return UsePlan(unit, units, math.prod(shape), chip, planned)


def _compile(program: _Program, model: SAM2, mesh: Mesh, chip: Chip) -> PlannedProgram:
    structures = []

    def leaves_of(model: SAM2) -> list[Any]:
        leaves, structure = jax.tree.flatten(program.arguments(model))
        structures.append(structure)
        return leaves

    def of_leaves(leaves: list[Any]) -> Any:
        return program.function(*jax.tree.unflatten(structures[0], leaves))

    shapes, sharding = jax.eval_shape(leaves_of, model), NamedSharding(mesh, PartitionSpec())
    placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in shapes]
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        cost, shortage = cost_or_shortage(jax.jit(of_leaves).lower(placed), chip)
    return PlannedProgram(program.name, program.runs, time.perf_counter() - start, cost, shortage)


def _photos(model: SAM2, batch: int) -> Any:
    return jnp.zeros((batch, *[model.config.image_size] * 2, 3))


def _prompts(model: SAM2, rows: int) -> Prompts:
    """Prompts with the fewest slots that the predictors make."""
    slots, side = CLICK_SLOTS + 3, model.config.mask_size
    nothing = jnp.zeros((rows, slots, 2)), jnp.zeros((rows, slots), jnp.int32)
    return Prompts(*nothing, jnp.zeros((rows, side, side)), jnp.zeros(rows, bool))
