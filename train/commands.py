"""The commands `sam2refiner train` and `sam2refiner plan`."""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from ..commands.cli import INTERRUPTED
from .config import TrainConfig
from .recipes import RECIPES

__all__ = ["PlanArguments", "TrainArguments", "plan", "train"]


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """A recipe, each field of which is a flag, and where the run lives.

    Attributes:
      config: the run.
      workdir: folder of checkpoints, logs and the result; the same command resumes what was stopped there.
      distributed: this is one of several processes that train together, one a host. On TPU pods and under Slurm they
        find each other; elsewhere three variables say where (docs/training.md).
      progress: show a progress bar.
      finish: make the result of the steps that are done, without another.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    workdir: Path = tyro.MISSING
    distributed: bool = False
    progress: bool = True
    finish: bool = False


@dataclasses.dataclass(frozen=True)
class PlanArguments:
    """A recipe, each field of which is a flag, and the machine to plan for.

    Attributes:
      config: the run.
      topology: TPU chips by kind and shape, such as v5e:4x4, v5p:4x4x4 or v6e:4x4, which need not be there; or cpu:8,
        for eight simulated devices.
      chip: whose speed and memory simulated devices are taken to have.
      costliest: lines of source to list, the costliest first; only the TPU's compiler says how long each takes.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    topology: str = tyro.MISSING
    chip: str = "v5e"
    costliest: int = 10


def _by_recipe(arguments: type) -> Any:
    """The type of a command line that begins with the name of a recipe."""
    return tyro.extras.subcommand_type_from_defaults(
        {name: arguments(recipe.config) for name, recipe in RECIPES.items()},
        {name: recipe.purpose for name, recipe in RECIPES.items()},
        prefix_names=False,
    )


TrainRecipe: Any = _by_recipe(TrainArguments)
PlanRecipe: Any = _by_recipe(PlanArguments)


def train(arguments: Annotated[TrainRecipe, tyro.conf.arg(name="")]) -> None:
    """Train a refiner or any part of a model; go on where a run in the same folder was stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.WARNING)
    if arguments.distributed:
        from .distributed import join

        join()
    from . import loop

    try:
        result = loop.train(arguments.config, arguments.workdir, progress=arguments.progress, finish=arguments.finish)
    except loop.Preempted as stopped:
        print(f"sam2refiner: {stopped}", file=sys.stderr)
        if stopped.interrupted:
            raise SystemExit(INTERRUPTED) from None
        return
    print(result)


def plan(arguments: Annotated[PlanRecipe, tyro.conf.arg(name="")]) -> None:
    """Compile a run's training step for TPUs that need not be there: memory, arithmetic, traffic, hours."""
    from .plan import plan_run

    count = arguments.topology.removeprefix("cpu:")
    if count != arguments.topology and count.isdecimal() and int(count) > 0:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", int(count))
    print(plan_run(arguments.config, arguments.topology, chip=arguments.chip).report(arguments.costliest))
