"""Notices that the machine is about to be taken away."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

__all__ = ["Preemption"]


class Preemption:
    """While entered, SIGTERM asks for a stop instead of ending the process.

    Where several processes train together, JAX's preemption service makes all of them stop at the same step, whichever
    got the signal.
    """

    def __init__(self):
        self._signalled = False

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def requested(self, step: int) -> bool:
        """Whether to save and stop after this step; the same on every process."""
        if jax.process_count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)
