"""What a memory policy knew of an object after a frame, kept with the frame's result so that tracking can go on."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Int

from .memory_bank import MemoryBank
from .slots import EMPTY

__all__ = ["Snapshot", "take_snapshots"]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One object's part of a bank, without the features, which the results of its frames have.

    Attributes:
      recent: the frames of the slots of recent memories, or EMPTY.
      state: the leaves of the policy's state.
    """

    recent: Int[np.ndarray, " slots"]
    state: tuple[np.ndarray, ...]

    @property
    def frames(self) -> set[int]:
        """The frames that are remembered."""
        return {int(frame) for frame in self.recent if frame != EMPTY}

    def restore(self, bank: MemoryBank, row: int, memories: Mapping[int, np.ndarray | None]) -> None:
        """Writes it to a row of a bank in host memory.

        Args:
          bank: the bank.
          row: of the object's first path.
          memories: the object's memory features by frame. A frame that has none any more, such as one that got a
            prompt meanwhile, is not remembered.
        """
        for leaf, value in zip(jax.tree.leaves(bank.state), self.state, strict=True):
            leaf[row] = value
        for slot, frame in enumerate(self.recent):
            memory = memories.get(int(frame))
            if memory is not None:
                bank.recent.frames[row, slot] = frame
                bank.recent.values[row, slot] = memory


def take_snapshots(bank: MemoryBank, count: int) -> list[Snapshot | None]:
    """Of the first `count` objects of a bank; None where the policy can do without them."""
    if bank.policy.follows_frames:
        return [None] * count
    recent, leaves = jax.device_get((bank.recent.frames, jax.tree.leaves(bank.state)))
    rows = range(0, count * bank.policy.paths, bank.policy.paths)
    return [Snapshot(np.array(recent[row]), tuple(np.array(leaf[row]) for leaf in leaves)) for row in rows]
