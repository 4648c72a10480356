"""Checkpoints of a run in progress: asynchronous, whole or not there, and read back from the last whole one."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

__all__ = ["Snapshots"]

log = logging.getLogger(__name__)


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
        self.folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True, step_prefix="step"
        )
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "data"))

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Begins to write a checkpoint; returns once `state` has been copied.

        Args:
          step: number of steps done.
          state: a pytree of arrays.
          data: the data iterator's state, plain values.
        """
        items = ocp.args.Composite(state=ocp.args.StandardSave(_named_leaves(state)), data=ocp.args.JsonSave(data))
        self.manager.save(step, args=items, force=True)

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The last checkpoint that can be read, as (step, state, data iterator's state); None if there is none.

        Ones that cannot be read are reported in the log and removed.

        Args:
          like: a state of the shapes, types and shardings to read.

        Raises:
          ValueError: if there are checkpoints but none can be read.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        wanted = {name: ocp.utils.to_shape_dtype_struct(leaf) for name, leaf in _named_leaves(like).items()}
        for step in steps:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted), data=ocp.args.JsonRestore())
            try:
                found = self.manager.restore(step, args=items)
            except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged directory.
                reason = (str(error).strip().splitlines() or [repr(error)])[0]
                log.warning("checkpoint of step %d is damaged, trying the one before it: %s", step, reason)
                continue
            for damaged in steps[: steps.index(step)]:
                self.manager.delete(damaged)
            state = jax.tree.unflatten(jax.tree.structure(like), [found.state[name] for name in wanted])
            return step, state, found.data
        if steps:
            raise ValueError(f"none of the checkpoints in {self.folder} can be read; remove the folder to start again")
        return None

    def latest(self) -> int | None:
        """The step of the last checkpoint."""
        return self.manager.latest_step()

    def wait(self) -> None:
        """Until all that was saved is on disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self.manager.close()
