"""What a benchmark measures: anything that makes masks of photos and prompts; and the baselines that need no model."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from .truth_prompts import Prompt

__all__ = ["Answer", "FilledBox", "GrabCut", "Segmenter"]

# Around a click, what GrabCut takes for certain, in pixels.
CLICK_RADIUS = 5
GRABCUT_ITERATIONS = 5


@dataclasses.dataclass(frozen=True)
class Answer:
    """A mask of the photo's size, and what the segmenter wants back with the next click's `Prompt`.

    Attributes:
      mask: of the photo's size.
      logits: the mask's, in a form of the segmenter's own.
      carry: what its refiner carries from click to click.
    """

    mask: Bool[np.ndarray, "h w"]
    logits: Float[np.ndarray, "1 _ _"] | None = None
    carry: Any = None


@runtime_checkable
class Segmenter(Protocol):
    """Makes masks of photos and prompts.

    Attributes:
      name: in reports.
      kinds: the masks it can make of a prompt, the main one last: ("mask",), or ("coarse", "refined").
      batch_size: how many photos it takes at once.
    """

    name: str
    kinds: tuple[str, ...]
    batch_size: int

    def settings(self) -> dict[str, Any]:
        """What its masks depend on, as plain values; two runs that differ here cannot be mixed."""
        ...

    def encode(self, photos: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Any:
        """What is computed once for at most `batch_size` photos, in a form of its own."""
        ...

    def segment(self, encoded: Any, prompts: Sequence[Prompt | None], kind: str) -> list[Answer | None]:
        """One mask for each photo of `encoded`, and None where there is no prompt."""
        ...


class FilledBox:
    """The baseline `box`: the filled box itself, or the smallest one that holds all clicks on the object."""

    name = "box"
    kinds: tuple[str, ...] = ("mask",)
    batch_size = 1

    def settings(self) -> dict[str, Any]:
        return {"segmenter": self.name}

    def encode(self, photos: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Sequence[np.ndarray]:
        return photos

    def segment(
        self, encoded: Sequence[np.ndarray], prompts: Sequence[Prompt | None], kind: str
    ) -> list[Answer | None]:
        return [
            None if prompt is None else Answer(self.mask(photo, prompt))
            for photo, prompt in zip(encoded, prompts, strict=True)
        ]

    def mask(self, photo: UInt8[np.ndarray, "h w 3"], prompt: Prompt) -> Bool[np.ndarray, "h w"]:
        """The mask of one object in one photo."""
        mask = np.zeros(photo.shape[:2], bool)
        x0, y0, x1, y1 = _pixels(prompt)
        mask[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1] = True
        return mask


class GrabCut(FilledBox):
    """The baseline `grabcut`: OpenCV's GrabCut, five iterations from the box, or from disks around the clicks.

    Where it finds too few pixels inside or outside to start from, the mask is the filled box.
    """

    name = "grabcut"

    def mask(self, photo: UInt8[np.ndarray, "h w 3"], prompt: Prompt) -> Bool[np.ndarray, "h w"]:
        labels = np.full(photo.shape[:2], cv2.GC_PR_BGD, np.uint8)
        if prompt.box is not None:
            labels = np.where(super().mask(photo, prompt), np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_BGD))
        for x, y, label in prompt.points:
            certain = cv2.GC_FGD if label else cv2.GC_BGD
            cv2.circle(labels, (round(x), round(y)), CLICK_RADIUS, certain, thickness=-1)
        cv2.setRNGSeed(0)  # the colour models start from random clusters
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        bgr = np.ascontiguousarray(photo[..., ::-1])
        try:
            cv2.grabCut(bgr, labels, (0, 0, 0, 0), background, foreground, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
        except cv2.error:
            return super().mask(photo, prompt)
        return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _pixels(prompt: Prompt) -> tuple[int, int, int, int]:
    """First column, first row, last column and last row of the box."""
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
    else:
        places = np.array([(x, y) for x, y, label in prompt.points if label])
        (x0, y0), (x1, y1) = places.min(axis=0), places.max(axis=0)
    return round(float(x0)), round(float(y0)), round(float(x1)), round(float(y1))
