"""Evaluation during training, by evaluators that a configuration names."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from ..data.mixture import open_mixture
from .config import DataConfig, PromptConfig, TrainConfig
from .data.pipeline import make_batches
from .sharding import global_batch, replicated
from .skeleton import Skeleton
from .step import EXACT_BOXES, TrainState, make_eval_step

__all__ = ["EVALUATORS", "Evaluation", "Evaluator", "PromptedMasks", "register_evaluator"]


Scores = dict[str, float]
Rows = dict[str, np.ndarray]


class Evaluator(Protocol):
    """Something measured of a run's model now and then; every process of the run makes the same calls."""

    def scores(self, state: TrainState, frozen: Any) -> tuple[Scores, Rows]:
        """What was measured, by name, and what `draw_panel` shows of it."""


# By name, from a run's configuration, its model and its devices.
EVALUATORS: dict[str, Callable[[TrainConfig, Skeleton, Mesh], Evaluator]] = {}


def register_evaluator(name: str, make: Callable[[TrainConfig, Skeleton, Mesh], Evaluator]) -> None:
    """Makes an evaluator known by a name that `TrainConfig.evaluators` can hold.

    Raises:
      ValueError: if the name is taken.
    """
    if name in EVALUATORS:
        raise ValueError(f"evaluator {name!r} is registered already")
    EVALUATORS[name] = make


class PromptedMasks:
    """Mean IoU of masks from prompts, on the same `eval_images` images every time.

    Args:
      config: the run, whose `eval_data` names the images.
      skeleton: the model.
      mesh: the devices.
      prompts: the mix of prompts.
    """

    def __init__(self, config: TrainConfig, skeleton: Skeleton, mesh: Mesh, prompts: PromptConfig = EXACT_BOXES):
        self.config, self.mesh = config, mesh
        self.size = skeleton.config.image_size
        self.sources = open_mixture(config.eval_data)
        self.step = jax.jit(make_eval_step(skeleton, config, prompts), out_shardings=replicated(mesh))

    def _batches(self) -> Iterator[dict[str, jax.Array]]:
        count = min(self.config.eval_images, sum(len(source) for source, _ in self.sources))
        batches = make_batches(
            self.sources,
            DataConfig(flip=False, jitter=None),
            image_size=self.size,
            batch_size=self.config.batch_size,
            seed=0,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with contextlib.closing(batches):
            for _ in range(-(-count // self.config.batch_size)):
                yield global_batch(next(batches), self.mesh)

    def scores(self, state: TrainState, frozen: Any) -> tuple[Scores, Rows]:
        outputs = [jax.device_get(self.step(state.best_params, frozen, batch)) for batch in self._batches()]
        names = [name for name in outputs[0] if name.endswith("_iou")]
        return {name: float(np.mean([out[name] for out in outputs])) for name in names}, outputs[0]


register_evaluator("box", PromptedMasks)
FEW_POINTS = PromptConfig(box=0.0, mask=0.0, max_points=3)
register_evaluator("points", functools.partial(PromptedMasks, prompts=FEW_POINTS))


class Evaluation:
    """The evaluators that a run names.

    Args:
      config: the run.
      skeleton: its model.
      mesh: its devices.

    Raises:
      ValueError: if one is not known.
    """

    def __init__(self, config: TrainConfig, skeleton: Skeleton, mesh: Mesh):
        for name in config.evaluators:
            if name not in EVALUATORS:
                raise ValueError(f"evaluators must be of {', '.join(EVALUATORS)}, got {name!r}")
        self.evaluators = {name: EVALUATORS[name](config, skeleton, mesh) for name in config.evaluators}

    def scores(self, state: TrainState, frozen: Any) -> tuple[Scores, Rows]:
        """All scores, as `eval/NAME/SCORE`, those from boxes as `eval/SCORE`; what the first evaluator shows."""
        scores: Scores = {}
        shown: Rows = {}
        for name, evaluator in self.evaluators.items():
            found, rows = evaluator.scores(state, frozen)
            prefix = "eval/" if name == "box" else f"eval/{name}/"
            scores |= {prefix + score: value for score, value in found.items()}
            shown = shown or rows
        return scores, shown
