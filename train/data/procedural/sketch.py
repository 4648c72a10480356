"""A drawing before it has a place: outlines and strokes in painter's order, each in the number of its part.

A sketch is made in unit coordinates, brought to pixels by an affine map, and drawn without anti-aliasing at
`SUPERSAMPLING` times the resolution into a map of part numbers. The share of a pixel's samples that a part holds is the
part's coverage: the coverages of all parts add up to the object's, so the picture and the mask agree exactly.
"""

import dataclasses
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from .shapes import Outline, Outlines

__all__ = ["SUPERSAMPLING", "Fur", "Part", "Sketch", "Tone", "Window", "coverage"]

# Samples per pixel in each direction.
SUPERSAMPLING = 4
# Binary digits after the point in the coordinates that OpenCV's drawing takes.
SHIFT = 4

# Rows and columns.
Window = tuple[slice, slice]

Tone = Literal["any", "dark", "light", "metal", "glass", "green", "wood", "skin", "hair", "vivid"]


@dataclasses.dataclass(frozen=True)
class Part:
    """What a part number stands for.

    Attributes:
      tone: the family of its colours.
      group: parts of one group, such as a wheel's tyre and rim, make a nameable part of the object; 0 for none.
    """

    tone: Tone
    group: int


@dataclasses.dataclass(frozen=True)
class Mark:
    """Outlines that are drawn alike.

    Attributes:
      points: the outlines.
      part: the number drawn; 0 erases.
      mode: fill each outline, fill where an odd number of them overlap, or stroke open or closed lines.
      width: of strokes.
      onto: draw only where this part is, or anywhere.
    """

    points: Outlines
    part: int
    mode: Literal["each", "odd", "open", "closed"]
    width: float = 0.0
    onto: int | None = None


@dataclasses.dataclass(frozen=True)
class Fur:
    """Hair along an object's outline.

    Attributes:
      length: of the longest, in unit coordinates.
      density: hairs per pixel of outline.
      wildness: how far they stray from lying side by side.
      bare: parts on which none grows.
    """

    length: float
    density: float
    wildness: float
    bare: tuple[int, ...] = ()


class Sketch:
    """An object being drawn in unit coordinates."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.marks: list[Mark] = []
        self.fur: Fur | None = None
        self.groups = 0

    def part(self, tone: Tone = "any", group: int = 0) -> int:
        """Number of a new part."""
        self.parts.append(Part(tone, group))
        return len(self.parts)

    def group(self) -> int:
        """Number of a new nameable group of parts."""
        self.groups += 1
        return self.groups

    def fill(self, points: Outline | Outlines, part: int, onto: int | None = None) -> None:
        """Fills an outline, or each outline of a stack."""
        self.marks.append(Mark(_stack(points), part, "each", onto=onto))

    def fill_odd(self, outlines: list[Float[np.ndarray, "_ 2"]], part: int) -> None:
        """Fills what lies within an odd number of the outlines: those within others are holes."""
        n = max(map(len, outlines))
        padded = [np.concatenate([o, np.repeat(o[-1:], n - len(o), axis=0)]) for o in outlines]
        self.marks.append(Mark(np.stack(padded), part, "odd"))

    def stroke(self, points: Outline | Outlines, part: int, width: float, closed: bool = False) -> None:
        """Draws a line, or each line of a stack."""
        self.marks.append(Mark(_stack(points), part, "closed" if closed else "open", width))

    def erase(self, points: Outline | Outlines) -> None:
        """Cuts holes."""
        self.fill(points, 0)

    def bounds(self) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
        """Least and greatest x and y of all that is drawn."""
        drawn = [mark for mark in self.marks if mark.part and mark.onto is None]
        points = np.concatenate([mark.points.reshape(-1, 2) for mark in drawn])
        half = np.repeat([mark.width / 2 for mark in drawn], [mark.points.size // 2 for mark in drawn])[:, None]
        return (points - half).min(axis=0), (points + half).max(axis=0)

    def bend(self, rng: np.random.Generator, amount: float) -> None:
        """Warps the whole drawing by two random waves."""
        low, high = self.bounds()
        extent = float(np.max(high - low))
        waves = rng.normal(size=(2, 2)) * 4 / extent
        phase = rng.uniform(0, 2 * np.pi, 2)
        push = rng.normal(size=(2, 2)) * amount * extent
        self.marks = [
            dataclasses.replace(mark, points=mark.points + np.sin(mark.points @ waves + phase) @ push)
            for mark in self.marks
        ]

    def render(
        self,
        rng: np.random.Generator,
        affine: Float[np.ndarray, "2 3"],
        width: int,
        height: int,
        thinnest: float,
    ) -> UInt8[np.ndarray, "height_4 width_4"]:
        """Draws the part numbers at `SUPERSAMPLING` times the resolution.

        Args:
          rng: scatters the fur.
          affine: from unit coordinates to pixels of the window.
          width: of the window.
          height: of the window.
          thinnest: least width of a stroke in pixels.
        """
        labels = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
        scale = float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
        for mark in self.marks:
            points = mark.points @ affine[:, :2].T + affine[:, 2]
            _draw(labels, points, mark, max(mark.width * scale, thinnest))
        if self.fur is not None:
            _grow(rng, labels, self.fur, self.fur.length * scale)
        return labels


def stencil(labels: UInt8[np.ndarray, "h w"], number: int) -> UInt8[np.ndarray, "h w"]:
    """255 where the label is this number, else 0."""
    return cv2.compare(labels, number, cv2.CMP_EQ)  # type: ignore[call-overload]  # takes numbers as well


def coverage(labels: UInt8[np.ndarray, "h4 w4"], number: int) -> tuple[Window, UInt8[np.ndarray, "h w"]]:
    """The pixels about all samples that have this number, and the share of each pixel's samples that do, 0..255."""
    samples = stencil(labels, number)
    left, upper, width, height = cv2.boundingRect(samples)
    x0, y0 = left // SUPERSAMPLING, upper // SUPERSAMPLING
    x1, y1 = -(-(left + width) // SUPERSAMPLING), -(-(upper + height) // SUPERSAMPLING)
    samples = samples[y0 * SUPERSAMPLING : y1 * SUPERSAMPLING, x0 * SUPERSAMPLING : x1 * SUPERSAMPLING]
    for _ in range(SUPERSAMPLING.bit_length() - 1):  # two fast halvings rather than one slow quartering
        h, w = samples.shape
        samples = cv2.resize(samples, (w // 2, h // 2), interpolation=cv2.INTER_AREA) if samples.size else samples
    return (slice(y0, y1), slice(x0, x1)), samples


def _stack(points: Outline | Outlines) -> Outlines:
    return points[None] if points.ndim == 2 else points


def _draw(labels: UInt8[np.ndarray, "h w"], points: Outlines, mark: Mark, width: float) -> None:
    # A pixel's centre has whole coordinates in OpenCV and halves here.
    fixed = np.round((points * SUPERSAMPLING - 0.5) * (1 << SHIFT)).astype(np.int32)
    if mark.onto is not None:
        patch = np.zeros_like(labels)
        for outline in fixed:
            cv2.fillPoly(patch, [outline], 255, cv2.LINE_8, SHIFT)
        cv2.bitwise_and(patch, stencil(labels, mark.onto), patch)
        cv2.copyTo(np.full_like(labels, mark.part), patch, labels)
    elif mark.mode == "each":
        for outline in fixed:
            cv2.fillPoly(labels, [outline], mark.part, cv2.LINE_8, SHIFT)
    elif mark.mode == "odd":
        cv2.fillPoly(labels, list(fixed), mark.part, cv2.LINE_8, SHIFT)
    else:
        thickness = max(round(width * SUPERSAMPLING), 1)
        cv2.polylines(labels, list(fixed), mark.mode == "closed", mark.part, thickness, cv2.LINE_8, SHIFT)


def _grow(rng: np.random.Generator, labels: UInt8[np.ndarray, "h w"], fur: Fur, length: float) -> None:
    """Draws hairs outwards from the outline, each in the number of the part that it grows from."""
    small = np.ascontiguousarray(labels[::SUPERSAMPLING, ::SUPERSAMPLING])
    contours, _ = cv2.findContours(stencil(small, 0) ^ 255, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    comb = rng.normal(size=2)
    for contour in contours:
        rim = contour[:, 0].astype(np.float64)
        if len(rim) < 12:
            continue
        along = np.roll(rim, -3, axis=0) - np.roll(rim, 3, axis=0)
        outward = np.stack([along[:, 1], -along[:, 0]], axis=-1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)
        if cv2.contourArea(contour, oriented=True) < 0:
            outward = -outward
        pick = rng.integers(0, len(rim), round(len(rim) * fur.density))
        column, row = contour[pick, 0].T
        numbers = small[row, column]
        lean = outward[pick] + comb + rng.normal(size=(len(pick), 2)) * fur.wildness
        lean *= length * rng.uniform(0.3, 1.0, (len(pick), 1))
        curl = rng.normal(size=(len(pick), 2)) * length * fur.wildness * 0.3
        root = rim[pick] - outward[pick]
        hairs = np.stack([root, root + lean * 0.5 + curl, root + lean], axis=1)
        fixed = np.round(((hairs + 0.5) * SUPERSAMPLING - 0.5) * (1 << SHIFT)).astype(np.int32)
        thickness = int(rng.integers(1, 4))
        for number in set(numbers.tolist()) - set(fur.bare):
            group = list(fixed[numbers == number])
            cv2.polylines(labels, group, False, int(number), thickness, cv2.LINE_8, SHIFT)
