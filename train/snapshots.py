"""Checkpoints of a run in progress: asynchronous, whole or not there, and read back from the last whole one."""

import functools
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from .distributed import wait_for_others

__all__ = ["Snapshots"]

log = logging.getLogger(__name__)

STEP_NAMES = ocp.path.step.standard_name_format(step_prefix="step")


def _named_leaves(tree: Any) -> dict[str, Any]:
    """The tree's arrays by their place in it, so that what is on disk does not depend on classes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


class Snapshots:
    """The checkpoints of one run, in one folder. Every process of the run must make the same calls.

    Args:
      folder: where they are, or will be.
      keep: how many to keep.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.absolute()
        self.keep = keep

    @functools.cached_property
    def _checkpointer(self) -> ocp.training.Checkpointer:
        """Made when the first checkpoint is written: nothing of it works in a folder that has a damaged one."""
        return ocp.training.Checkpointer(
            self.folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(self.keep),
            step_name_format=STEP_NAMES,
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Begins to write a checkpoint; returns once `state` has been copied.

        Args:
          step: number of steps done.
          state: a pytree of arrays.
          data: the data iterator's state, plain values.
        """
        items = {"state": _named_leaves(state), "data": data}
        self._checkpointer.save_checkpointables_async(step, items, force=True)

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The last checkpoint that can be read, as (step, state, data iterator's state); None if there is none.

        Ones that cannot be read are reported in the log and removed.

        Args:
          like: a state of the shapes, types and shardings to read.

        Raises:
          ValueError: if there are checkpoints but none can be read.
        """
        steps = self._steps()
        wanted = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _named_leaves(like).items()
        }
        for step in steps:
            try:
                found = ocp.load_checkpointables(self._path(step), {"state": wanted, "data": None})
            except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged directory.
                reason = (str(error).strip().splitlines() or [repr(error)])[0]
                log.warning("checkpoint of step %d is damaged, trying the one before it: %s", step, reason)
                continue
            if jax.process_index() == 0:
                for damaged in steps[: steps.index(step)]:
                    shutil.rmtree(self._path(damaged))
            wait_for_others("damaged checkpoints removed")
            state = jax.tree.unflatten(jax.tree.structure(like), [found["state"][name] for name in wanted])
            return step, state, found["data"]
        if steps:
            raise ValueError(f"none of the checkpoints in {self.folder} can be read; remove the folder to start again")
        return None

    def latest(self) -> int | None:
        """The step of the last checkpoint."""
        return max(self._steps(), default=None)

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones too, the last first."""
        return sorted((found.step for found in STEP_NAMES.find_all(self.folder)), reverse=True)

    def _path(self, step: int) -> Path:
        return self.folder / STEP_NAMES.build_name(step)

    def wait(self) -> None:
        """Until all that was saved is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits likewise, and ends the threads that write."""
        self._checkpointer.close()
