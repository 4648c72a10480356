"""What a run writes for people: a JSONL file, TensorBoard events and panels of masks."""

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..image.overlay import draw_overlay

__all__ = ["RunLog", "draw_panel"]

LOG_FILE = "log.jsonl"


class RunLog:
    """The log of one run. Only the first process of a run writes; for the others nothing happens.

    Args:
      workdir: the run's folder.
      step: the step that the run goes on from; what an interrupted run wrote after it is dropped.
      writes: whether this process is the one that writes.
    """

    def __init__(self, workdir: Path, step: int, *, writes: bool = True):
        self.workdir = workdir
        self.writes = writes
        if not writes:
            return
        from tensorboardX import SummaryWriter

        path = workdir / LOG_FILE
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        path.write_text("".join(line + "\n" for line in kept))
        self.file = path.open("a")
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records numbers under the number of steps done."""
        if self.writes:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def panel(self, step: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Records a picture, as a file too."""
        if self.writes:
            self.board.add_image("masks", picture, step, dataformats="HWC")
            folder = self.workdir / "panels"
            folder.mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / f"{step:08d}.png")

    def close(self) -> None:
        if self.writes:
            self.file.close()
            self.board.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the last line of a run that was killed
        return float("inf")


def draw_panel(rows: Mapping[str, np.ndarray], side: int = 256) -> UInt8[np.ndarray, "h w 3"]:
    """A picture with a row for each image: photo with its box, coarse mask, refined mask, truth.

    Args:
      rows: `image`, `box`, `coarse`, `refined` (may be missing) and `truth` as the evaluation step gives them.
      side: of each picture in pixels.
    """
    lines = []
    for i, image in enumerate(rows["image"]):
        nothing = np.zeros((0, *image.shape[:2]), bool)
        pictures = [draw_overlay(image, nothing, boxes=rows["box"][i].reshape(1, 4))]
        pictures += [draw_overlay(image, rows[name][i][None] > 0) for name in ("coarse", "refined") if name in rows]
        pictures.append(draw_overlay(image, rows["truth"][i][None] > 0.5))
        lines.append(np.hstack([cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in pictures]))
    return np.vstack(lines)
