"""Baselines of the video benchmark, which need no model: what any tracker must beat."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..image.boxes import box_around
from ..video.frames import FrameFolder
from .segmenters import FilledBox, GrabCut
from .trackers import Start, Starts, TrackedObjects
from .truth_prompts import Prompt

__all__ = ["BaselineTracker", "CarryingTracker"]

# How much the box of the last mask grows, on each side, before GrabCut looks for the object in the next frame.
GROWTH = 0.2


class BaselineTracker:
    """The baselines: `box` repeats the first frame's box, `grabcut` cuts each frame from the last mask's grown box.

    Where GrabCut loses the object, it goes on looking in the last box it had.

    Args:
      baseline: what makes the masks: a `FilledBox` or a `GrabCut`.
    """

    def __init__(self, baseline: FilledBox):
        self.name = baseline.name
        self._baseline = baseline

    def settings(self) -> dict[str, Any]:
        return {"tracker": self.name}

    def track(self, frames: Path, starts: Starts) -> Iterator[TrackedObjects]:
        prompts: dict[int, Prompt] = {}
        for index, photo in enumerate(FrameFolder(frames, size=1).photos()):
            new = starts.get(index, {})
            prompts |= {number: _as_prompt(start) for number, start in new.items()}
            masks = {number: self._baseline.mask(photo, prompt) for number, prompt in prompts.items()}
            if isinstance(self._baseline, GrabCut):
                prompts |= {n: Prompt(box=_grown(box_around(mask), mask)) for n, mask in masks.items() if mask.any()}
            masks |= {number: start.mask for number, start in new.items() if start.mask is not None}
            if masks:
                logits = np.where(np.stack(list(masks.values())), 1.0, -1.0).astype(np.float32)
                yield TrackedObjects(index, list(masks), logits)


def _as_prompt(start: Start) -> Prompt:
    return start.prompt if start.mask is None else Prompt(box=box_around(start.mask))


def _grown(box: tuple[float, float, float, float], mask: np.ndarray) -> tuple[float, float, float, float]:
    height, width = mask.shape
    x0, y0, x1, y1 = box
    dx, dy = GROWTH * (x1 - x0 + 1), GROWTH * (y1 - y0 + 1)
    return max(0.0, x0 - dx), max(0.0, y0 - dy), min(width - 1.0, x1 + dx), min(height - 1.0, y1 + dy)


class CarryingTracker:
    """The first mask carried from frame to frame: `copy` leaves it where it is, `flow` moves it with the picture.

    The flow is OpenCV's DIS (dense inverse search, https://arxiv.org/abs/1603.03590), from each frame back to the one
    before. An object that began with a box or clicks has the filled box around them for a mask.

    Args:
      name: "copy" or "flow".
    """

    def __init__(self, name: str):
        if name not in ("copy", "flow"):
            raise ValueError(f"name must be copy or flow, got {name!r}")
        self.name = name

    def settings(self) -> dict[str, Any]:
        return {"tracker": self.name}

    def track(self, frames: Path, starts: Starts) -> Iterator[TrackedObjects]:
        masks: dict[int, Float[np.ndarray, "h w"]] = {}
        before: UInt8[np.ndarray, "h w"] | None = None
        flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        for index, photo in enumerate(FrameFolder(frames, size=1).photos()):
            gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
            if self.name == "flow" and before is not None and masks:
                flow = flow_of.calc(gray, before, np.zeros((*gray.shape, 2), np.float32))
                masks = {number: _carried(mask, flow) for number, mask in masks.items()}
            before = gray
            masks |= {n: _mask_of(start, photo).astype(np.float32) for n, start in starts.get(index, {}).items()}
            if masks:
                yield TrackedObjects(index, list(masks), np.stack(list(masks.values())) - 0.5)


def _carried(mask: Float[np.ndarray, "h w"], flow: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w"]:
    """The mask of the frame before, each pixel's from where the flow says that it was."""
    height, width = mask.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(mask, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)


def _mask_of(start: Start, photo: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    return start.mask if start.mask is not None else FilledBox().mask(photo, start.prompt)
