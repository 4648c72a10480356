"""The commands `sam2refiner plan segment`, `plan track` and `plan everything`."""

import dataclasses
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..serving.plan import UsePlan, model_to_plan, plan_everything, plan_segment, plan_track

__all__ = ["everything", "segment", "track"]


@dataclasses.dataclass(frozen=True)
class Use:
    """What is planned, and for which machine.

    Attributes:
      model: A preset, such as sam2.1_hiera_t.
      topology: TPU chips by kind and shape, such as v5e:1x1 or v5p:2x2x1; each works alone.
      batch: Photos, or videos side by side, at a time on a chip.
      objects: Objects in each photo or video.
      refiner: A refiner by name, such as sam2refiner.
      image_size: Side of the model's square input, a multiple of 32; the preset's own unless given.
      dtype: Computation type.
      costliest: Lines of source to list, the costliest first.
    """

    model: Positional[str] = "sam2.1_hiera_t"
    topology: str = "v5e:1x1"
    batch: int = 1
    objects: int = 1
    refiner: str | None = None
    image_size: int | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    costliest: int = 10


Flags = Annotated[Use, tyro.conf.arg(name="")]
DEFAULT = Use()


def segment(use: Flags = DEFAULT) -> None:
    """Compile what segments photos for TPUs that need not be there: memory, arithmetic, traffic, photos a second."""
    model = model_to_plan(use.model, refiner=use.refiner, image_size=use.image_size, dtype=use.dtype)
    _print(plan_segment(model, use.topology, batch=use.batch, objects=use.objects), use.costliest)


def track(use: Flags = DEFAULT) -> None:
    """Compile what tracks videos for TPUs that need not be there: memory, arithmetic, traffic, frames a second."""
    model = model_to_plan(use.model, refiner=use.refiner, image_size=use.image_size, dtype=use.dtype)
    _print(plan_track(model, use.topology, batch=use.batch, objects=use.objects), use.costliest)


def everything(
    model: Positional[str] = "sam2.1_hiera_t",
    topology: str = "v5e:1x1",
    points_per_side: int = 32,
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    costliest: int = 10,
) -> None:
    """Compile what finds all masks of a photo for TPUs that need not be there: memory, arithmetic, photos a second.

    Args:
      model: A preset, such as sam2.1_hiera_t.
      topology: TPU chips by kind and shape, such as v5e:1x1 or v5p:2x2x1; each works alone.
      points_per_side: Of the grid of points.
      image_size: Side of the model's square input, a multiple of 32; the preset's own unless given.
      dtype: Computation type.
      costliest: Lines of source to list, the costliest first.
    """
    planned = model_to_plan(model, image_size=image_size, dtype=dtype)
    _print(plan_everything(planned, topology, points_per_side=points_per_side), costliest)


def _print(plan: UsePlan, costliest: int) -> None:
    print(plan.report(costliest))
