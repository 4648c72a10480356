"""What a training run would cost on a machine that is not there: its real step, compiled for it."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from ..config import get_config
from ..hardware.chips import CHIPS, Chip, chip_of, topology_mesh
from ..hardware.compiled_cost import CompiledCost, OutOfMemory, cost_or_shortage
from ..hardware.operations import describe_costliest
from .config import TrainConfig
from .parts import make_skeleton
from .sharding import make_mesh, weight_sharding
from .step import batch_shapes, check_batch, compile_train_step, initial_state, make_train_step, state_shardings

__all__ = ["Plan", "lower_step", "plan_run"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
      cost: of one step; None where the compiler found that the step does not fit.
      shortage: what it needed then.
      chip: the chips' kind.
      chips: how many there are.
      batch_size: images a step, or clips.
      steps: steps of the run.
      unit: what a batch is of, "image" or "clip".
    """

    cost: CompiledCost | None
    shortage: OutOfMemory | None
    chip: Chip
    chips: int
    batch_size: int
    steps: int
    unit: str = "image"

    @property
    def per_chip(self) -> float:
        return self.batch_size / self.chips

    @property
    def hours(self) -> float:
        """Of the whole run at the roofline's speed; real runs reach a half to two thirds of it."""
        return float("nan") if self.cost is None else self.steps * self.cost.roofline_seconds / 3600

    def report(self, lines: int = 10) -> str:
        """The plan in words and figures, with so many of the step's costliest lines of source."""
        head = f"{self.chips} x {self.chip.name}, {self.batch_size} {self.unit}s a step, {self.per_chip:g} a chip"
        if self.cost is None:
            assert self.shortage is not None
            needed, available = (x / 2**30 for x in (self.shortage.needed, self.shortage.available))
            return (
                f"{head}\nDOES NOT FIT: a chip would need {needed:.2f} GiB of the {available:.2f} GiB that a program "
                "can have. Try a smaller batch_size, more accumulate, or more model_parallel."
            )
        traffic = self.cost.off_chip_bytes / self.per_chip / 1e9
        rate = self.per_chip / self.cost.roofline_seconds
        return "\n".join(
            [
                head,
                self.cost.table(),
                f"memory traffic per {self.unit} {traffic:.1f} GB",
                f"at best {rate:.1f} {self.unit}s a second and chip; {self.steps} steps take {self.hours:.1f} hours, "
                f"{self.hours * self.chips:.0f} chip-hours",
                *describe_costliest(self.cost.operations, lines),
            ]
        )


def plan_run(config: TrainConfig, topology: str, *, chip: str = "v5e") -> Plan:
    """Compiles the training step of a run for a machine, and reckons.

    Args:
      config: the run; what it would load or read need not be there.
      topology: TPU chips by kind and shape, such as "v5e:4x4" or "v5p:4x4x4", or "cpu:8" for eight devices of this
        machine (as many as JAX was started with), taken as if they were `chip`s.
      chip: see `topology`.

    Raises:
      ValueError: on an unknown topology, or a batch that the chips do not divide.
    """
    if topology.startswith("cpu:"):
        if chip not in CHIPS:
            raise ValueError(f"chip must be one of {', '.join(CHIPS)}, got {chip!r}")
        mesh, kind = make_mesh(config.model_parallel, _local_devices(topology)), CHIPS[chip]
    else:
        mesh, kind = topology_mesh(topology, {"data": -1, "model": config.model_parallel}), chip_of(topology)
    check_batch(config, mesh, "chips")
    steps = config.total_steps()
    cost, shortage = cost_or_shortage(lower_step(config, steps, mesh), kind)
    return Plan(
        cost, shortage, kind, mesh.size, config.batch_size, steps, "clip" if config.data.frames > 1 else "image"
    )


def _local_devices(topology: str) -> list[Any]:
    count = topology.removeprefix("cpu:")
    devices = jax.devices("cpu")
    if not count.isdecimal() or not 1 <= int(count) <= len(devices):
        raise ValueError(f"topology must be cpu:1 to cpu:{len(devices)}, as JAX has so many devices; got {topology!r}")
    return devices[: int(count)]


def lower_step(config: TrainConfig, steps: int, mesh: Mesh) -> jax.stages.Lowered:
    """The run's training step for the mesh's devices, from shapes alone."""
    skeleton = make_skeleton(config, get_config(config.model.name), config.model.refiner)
    params, frozen = skeleton.shapes()
    state = jax.eval_shape(lambda p: initial_state(p, config.optimizer, steps), params)

    def placed(shapes, shardings):
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

    batch = batch_shapes(skeleton, config, mesh)
    frozen = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=weight_sharding(mesh, x.shape))
        for name, x in frozen.items()
    }
    step = compile_train_step(make_train_step(skeleton, config, steps, mesh), state, mesh)
    with jax.set_mesh(mesh):
        return step.lower(placed(state, state_shardings(state, mesh)), frozen, batch)
