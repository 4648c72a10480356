"""Notices that a run is to stop: the machine is about to be taken away, or somebody pressed ctrl-C."""

import logging
import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

__all__ = ["Preemption"]

log = logging.getLogger(__name__)


class Preemption:
    """While entered, SIGTERM and the first ctrl-C ask for a stop instead of ending the process; the second ends it.

    Where several processes train together, JAX's preemption service makes all of them stop at the same step, whichever
    got the signal.

    Attributes:
      interrupted: whether it was ctrl-C, here.
    """

    def __init__(self):
        self.interrupted = False
        self._signalled = False

    def __enter__(self) -> "Preemption":
        self._before = {signal.SIGINT: signal.signal(signal.SIGINT, self._on_interrupt)}
        if jax.process_count() == 1:
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        log.info("stopping after this step; press ctrl-C again to stop without saving it")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGTERM)  # which is what the preemption service listens to

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def requested(self, step: int) -> bool:
        """Whether to save and stop after this step; the same on every process."""
        if jax.process_count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)
