"""A profiler's trace of some of a run's steps, for TensorBoard or Perfetto."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

__all__ = ["StepTrace"]

# Steps of a sitting before the trace begins: the first ones wait for data and for memory.
WARM_UP = 2


class StepTrace:
    """Numbers each step for whatever profiler looks on, and traces `count` of them itself.

    Args:
      folder: where the trace goes, which TensorBoard's profile plugin reads; made if a trace is.
      first: number of steps done before this sitting.
      count: how many steps to trace; 0 for none.
    """

    def __init__(self, folder: Path, first: int, count: int):
        self.folder = folder
        self.begin, self.end = first + WARM_UP, first + WARM_UP + count
        self.running = False

    @contextlib.contextmanager
    def step(self, done: int) -> Iterator[None]:
        """Around a step, `done` steps having been done before it."""
        if done == self.begin < self.end:
            jax.profiler.start_trace(self.folder)
            self.running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=done):
            yield

    def after(self, done: int, results: Any) -> None:
        """Ends the trace after its last step, whose results it waits for."""
        if self.running and done == self.end:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that a run's end cut short."""
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
