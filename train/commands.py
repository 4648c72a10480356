"""The commands `sam2refiner train` and `sam2refiner plan`."""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from .config import TrainConfig
from .presets import PRESETS

__all__ = ["TrainArguments", "train"]


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """A preset, each field of which is a flag, and where the run lives.

    Attributes:
      config: the run.
      workdir: folder of checkpoints, logs and the result; the same command resumes what was stopped there.
      distributed: this is one of several processes that train together, one a host. On TPU pods and under Slurm they
        find each other; elsewhere three variables say where (docs/training.md).
      progress: show a progress bar.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    workdir: Path
    distributed: bool = False
    progress: bool = True


TrainPreset: Any = tyro.extras.subcommand_type_from_defaults(
    {name: TrainArguments(preset.config, tyro.MISSING) for name, preset in PRESETS.items()},
    {name: preset.purpose for name, preset in PRESETS.items()},
    prefix_names=False,
)


def train(arguments: Annotated[TrainPreset, tyro.conf.arg(name="")]) -> None:
    """Trains a refiner or any part of a model; goes on where a run in the same folder was stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.WARNING)
    if arguments.distributed:
        from .distributed import join

        join()
    from . import loop

    try:
        result = loop.train(arguments.config, arguments.workdir, progress=arguments.progress)
    except loop.Preempted as stopped:
        print(f"sam2refiner: {stopped}", file=sys.stderr)
        return
    print(result)
