"""How far `sam2refiner track` is with a video, in a file, so that a run that was interrupted goes on."""

import dataclasses
from pathlib import Path
from typing import Any

from ..settings import setting_differences
from ..video.predictor import SAM2VideoPredictor
from ..video.saved_state import read_notes
from ..video.state import InferenceState
from .outputs import DONE_WITH, document_of, result_tags, save_document
from .track_legs import Position

__all__ = ["DOCUMENT", "STATE_FILE", "Progress", "Scores"]

# The state of a run that is not finished, and what says that one is, which is written last.
STATE_FILE, DOCUMENT = "state.npz", "track.json"

# An object's score and its mask's predicted IoU, both in [0, 1], NaN where there is none; by the object's number.
Scores = dict[int, tuple[float, float]]


@dataclasses.dataclass
class Progress:
    """Of one video.

    Attributes:
      folder: of the results.
      source: what results call the video.
      settings: what the masks depend on, as JSON gives it back.
      every: frames from one save to the next; None to save nothing.
      position: how far the run is; None at its start.
      scores: of the frames that are done, by index.
    """

    folder: Path
    source: str
    settings: dict[str, Any]
    every: int | None = None
    position: Position | None = None
    scores: dict[int, Scores] = dataclasses.field(default_factory=dict)

    def check(self) -> bool:
        """Whether the video is done already.

        Raises:
          ValueError: if what is there was made with other settings, naming them.
        """
        document = document_of(self.folder / DOCUMENT, self.source)
        found = document or (read_notes(self._state) if self._state.exists() else None)
        if found is None:
            return False
        differences = setting_differences(found[DONE_WITH], self.settings)
        if differences:
            raise ValueError(
                f"{self.folder} holds results of other settings: {'; '.join(differences)}. Choose another output "
                "folder, or track anew without --resume"
            )
        return document is not None

    def load(self, predictor: SAM2VideoPredictor, video: Path, paths: dict[int, Path]) -> InferenceState | None:
        """The state with which the run goes on; None if there is none.

        Args:
          predictor: of the same model and settings.
          video: the same video.
          paths: where each frame's mask is.

        Raises:
          ValueError: if the model or the video is another, or a mask that was written is gone.
        """
        if not self._state.exists():
            return None
        state = predictor.load_state(self._state, video)
        notes = state.notes
        self.position = Position(notes["leg"], notes["frame"])
        self.scores = {
            int(frame): {int(number): (score, iou) for number, (score, iou) in of_objects.items()}
            for frame, of_objects in notes["scores"].items()
        }
        missing = [paths[frame] for frame in self.scores if not paths[frame].exists()]
        if missing:
            raise ValueError(f"{missing[0]} was written and is gone; track anew without --resume")
        return state

    def add(self, predictor: SAM2VideoPredictor, state: InferenceState, position: Position, scores: Scores) -> None:
        """Notes that a frame's results are written; saves the state if it is time."""
        self.position = position
        self.scores[position.frame] = scores
        if self.every and len(self.scores) % self.every == 0:
            state.notes = {
                **result_tags(self.source),
                DONE_WITH: self.settings,
                "leg": position.leg,
                "frame": position.frame,
                "scores": self.scores,
            }
            predictor.save_state(state, self._state, overwrite=True)

    def finish(self, results: dict[str, Any]) -> None:
        """Notes that all is done, when all else is written."""
        save_document({**results, DONE_WITH: self.settings}, self.folder / DOCUMENT, self.source)
        self._state.unlink(missing_ok=True)

    @property
    def _state(self) -> Path:
        return self.folder / STATE_FILE
