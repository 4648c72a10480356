"""Evaluation during training: masks of a fixed set of images from exact boxes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ..data.mixture import open_mixture
from .config import DataConfig, TrainConfig
from .data.pipeline import make_batches
from .parts import Skeleton
from .sharding import global_batch, replicated
from .step import TrainState, make_eval_step

__all__ = ["Evaluation"]


class Evaluation:
    """Evaluation on the same `eval_images` images every time."""

    def __init__(self, config: TrainConfig, skeleton: Skeleton, mesh: Mesh):
        self.config, self.mesh = config, mesh
        self.size = skeleton.config.image_size
        self.sources = open_mixture(config.eval_data)
        self.step = jax.jit(make_eval_step(skeleton, config), out_shardings=replicated(mesh))

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

    def scores(self, state: TrainState, frozen: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Mean IoU of coarse and refined masks, and what `draw_panel` shows of some of them."""
        outputs = [jax.device_get(self.step(state.best_params, frozen, batch)) for batch in self._batches()]
        names = [name for name in outputs[0] if name.endswith("_iou")]
        return {f"eval/{name}": float(np.mean([out[name] for out in outputs])) for name in names}, outputs[0]
