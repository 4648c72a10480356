"""Where weights come from: which parts of a model were trained, one run after the other, and which are still random."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["Provenance", "TrainingRun"]


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What one run taught.

    Attributes:
      parts: of the model, as `--trainable` names them.
      steps: how many.
      batch_size: images or clips a step.
      image_size: side of the input in pixels.
      frames: of each clip; 0 for photos.
    """

    parts: tuple[str, ...]
    steps: int
    batch_size: int
    image_size: int
    frames: int


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What is known of a model's weights beside their numbers; of published ones, nothing.

    Attributes:
      runs: of training, the earliest first.
      untrained: parts whose weights are as they were made: random.
    """

    runs: tuple[TrainingRun, ...] = ()
    untrained: tuple[str, ...] = ()

    def after(self, run: TrainingRun, parts: Collection[str]) -> "Provenance":
        """After a run that taught these parts, each named by itself."""
        return Provenance((*self.runs, run), tuple(part for part in self.untrained if part not in parts))

    def to_dict(self) -> dict[str, Any]:
        """For `config.json`; empty where nothing is known."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Provenance":
        """The inverse of `to_dict`; raises a ValueError or TypeError on what it does not write."""
        unknown = sorted({*fields} - {"runs", "untrained"})
        if unknown:
            raise ValueError(f"training must hold runs and untrained, got {', '.join(unknown)}")
        runs = tuple(TrainingRun(**{**run, "parts": tuple(run["parts"])}) for run in fields.get("runs", ()))
        return cls(runs, tuple(fields.get("untrained", ())))
