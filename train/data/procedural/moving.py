"""Scenes that move: objects go, turn, hide each other, leave and come back, some alike, and the camera shakes."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ....data.clip_sources import ClipSample
from ....data.sources import Sample
from .backgrounds import background
from .camera import develop
from .colours import natural_colour
from .composition import Plane, put, spread, visible
from .families import pick_family
from .painting import Layer, Look
from .scene import extents, is_salient, place
from .source import TRIES, Numbered
from .textures import Textures

__all__ = ["MovingScenes", "Path"]

# The background is larger than the frame by this share on each side: as far as the camera may look about.
MARGIN = 0.15
# Frames in which the slowest and the fastest object goes, or turns, once to and fro.
PERIODS = (8.0, 40.0)
# Share of the objects that leave the frame, of scenes with a look-alike, and of clips whose camera shakes.
LEAVING, ALIKE, SHAKING = 0.2, 0.4, 0.4


@dataclasses.dataclass(frozen=True)
class Path:
    """How an object moves: each of its sides to and fro, as a sine of the frame's number.

    Attributes:
      reach: how far it goes in x and y, in pixels.
      turn: how far it turns, in radians.
      growth: how far it grows, as the logarithm of its size.
      narrowing: how narrow it becomes where it turns about its upright axis, 0 to 1.
      pace: radians a frame, of place (x, y), turn, growth and narrowing.
    """

    reach: Float[np.ndarray, "2"]
    turn: float
    growth: float
    narrowing: float
    pace: Float[np.ndarray, "5"]

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> "Path":
        far = rng.uniform(1.0, 1.6) if rng.random() < LEAVING else rng.uniform(0.02, 0.45)
        angle = rng.uniform(0, 2 * np.pi)
        return cls(
            reach=size * far * np.array([np.cos(angle), np.sin(angle) * rng.uniform(0.2, 1.0)]),
            turn=float(rng.normal(0, 0.5)),
            growth=float(rng.normal(0, 0.25)),
            narrowing=float(rng.uniform(0, 0.6)) if rng.random() < 0.3 else 0.0,
            pace=2 * np.pi / np.exp(rng.uniform(np.log(PERIODS[0]), np.log(PERIODS[1]), 5)),
        )

    def at(self, frame: int, centre: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2 3"]:
        """The affine map of the object's first place to that in a frame, about its centre; in frame 0 the identity."""
        swing = np.sin(self.pace * frame)
        angle, scale = self.turn * swing[2], np.exp(self.growth * swing[3])
        narrow = 1 - self.narrowing * swing[4] ** 2
        cos, sin = np.cos(angle), np.sin(angle)
        linear = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([narrow, 1.0])
        return np.column_stack([linear, centre + self.reach * swing[:2] - linear @ centre])


class MovingScenes(Numbered):
    """Clips made from nothing but numbers, without end: clip `i` is the same wherever and whenever it is made."""

    def __getitem__(self, index: int) -> Sample:
        """The first frame of a clip and its first object."""
        clip = self._clip(index, 1, 1, reverse=False)
        return {"image": clip["image"][0], "mask": clip["mask"][0, ..., 0]}

    def clip(self, index: int, frames: int, objects: int, rng: np.random.Generator, *, reverse: bool) -> ClipSample:
        """The clip; nothing about it comes from `rng`."""
        return self._clip(index, frames, objects, reverse=reverse)

    def name_of(self, index: int) -> str:
        """A name for messages."""
        return f"procedural-clips seed {self.seed} clip {index}"

    def _clip(self, index: int, frames: int, objects: int, *, reverse: bool) -> ClipSample:
        number, textures = self._checked(index), Textures(self.seed, self.photos)
        for attempt in range(TRIES):
            rng = np.random.default_rng((self.seed, number, attempt, 1))
            clip = _Scene(rng, self.size, textures).clip(frames, objects, reverse)
            if clip is not None:
                return clip
        raise RuntimeError(f"no scene of clip {index} has an object to follow in {TRIES} tries")


class _Scene:
    """Layers with a path each, over a background that a camera looks about on."""

    def __init__(self, rng: np.random.Generator, size: int, textures: Textures):
        self.size = size
        look = Look(
            [natural_colour(rng) for _ in range(int(rng.integers(3, 8)))],
            light=rng.uniform(0, 2 * np.pi),
            sharing=float(rng.choice([0.1, 0.3, 0.7])),
            photographic=float(rng.choice([0.0, 0.5, 0.9])),
        )
        self.margin = round(MARGIN * size)
        self.background, _ = background(rng, size + 2 * self.margin, textures, look)
        self.layers = [place(rng, size, extent, pick_family(rng), textures, look) for extent in extents(rng)]
        if rng.random() < ALIKE:
            self.layers.append(self._look_alike(rng))
        self.paths = [Path.draw(rng, size) for _ in self.layers]
        shakes = rng.random() < SHAKING
        self.shaking = rng.uniform(0.002, 0.02) * size if shakes else 0.0
        self.drift = rng.normal(0, 0.01 * size, 2)
        self.jolts = rng.normal(0, 1, (256, 2))
        self.film = rng.integers(2**32)

    def _look_alike(self, rng: np.random.Generator) -> Layer:
        """One of the objects once more, elsewhere and, half of the time, mirrored."""
        model = self.layers[int(rng.integers(len(self.layers)))]
        shift = (rng.uniform(-0.5, 0.5, 2) * self.size).astype(int)
        step = -1 if rng.random() < 0.5 else 1
        return Layer(
            model.x + int(shift[0]),
            model.y + int(shift[1]),
            np.ascontiguousarray(model.colour[:, ::step]),
            np.ascontiguousarray(model.alpha[:, ::step]),
            [],
        )

    def clip(self, frames: int, objects: int, reverse: bool) -> ClipSample | None:
        """The frames, and those objects that the first one played shows well, the largest first."""
        numbers = range(frames)[::-1] if reverse else range(frames)
        order: list[int] = []
        images: list[UInt8[np.ndarray, "h w 3"]] = []
        masks: list[UInt8[np.ndarray, "h w n"]] = []
        for number in numbers:
            layers = [self._moved(layer, path, number) for layer, path in zip(self.layers, self.paths, strict=True)]
            shown, _ = visible(layers, self.size)
            if not images:
                order = self._salient(layers, shown)[:objects]
                if not order:
                    return None
            images.append(self._developed(layers, number))
            masks.append(np.stack([np.round(shown[i] * 255).astype(np.uint8) for i in order], axis=-1))
        return {"image": np.stack(images), "mask": np.stack(masks)}

    def _camera(self, number: int) -> Float[np.ndarray, "2"]:
        """How far the camera has moved in a frame, never beyond the background."""
        moved = self.drift * number + self.shaking * self.jolts[number % len(self.jolts)]
        return np.clip(moved, -self.margin, self.margin)

    def _moved(self, layer: Layer, path: Path, number: int) -> Layer:
        """The layer where it is in a frame, in a window as large as the frame."""
        height, width = layer.alpha.shape
        centre = np.array([layer.x + width / 2, layer.y + height / 2])
        matrix = path.at(number, centre)
        matrix[:, 2] += matrix[:, :2] @ np.array([layer.x, layer.y]) - self._camera(number)
        size = (self.size, self.size)
        lit = cv2.multiply(layer.colour, cv2.merge([layer.alpha] * 3))
        alpha = cv2.warpAffine(layer.alpha, matrix, size)
        lit = cv2.warpAffine(lit, matrix, size)
        colour = lit / np.maximum(alpha, 1e-3)[..., None]
        return Layer(0, 0, colour, np.clip(alpha, 0, 1), [])

    def _salient(self, layers: list[Layer], shown: list[Plane]) -> list[int]:
        wholes = [spread(layer.alpha, layer, self.size) for layer in layers]
        found = [i for i, (plane, whole) in enumerate(zip(shown, wholes, strict=True)) if is_salient(plane, whole)]
        return sorted(found, key=lambda i: -float(shown[i].sum()))

    def _developed(self, layers: list[Layer], number: int) -> UInt8[np.ndarray, "size size 3"]:
        x, y = self._camera(number)
        window = np.array([[1, 0, -self.margin - x], [0, 1, -self.margin - y]])
        scene = cv2.warpAffine(self.background, window, (self.size, self.size), borderMode=cv2.BORDER_REFLECT_101)
        for layer in layers:
            scene = put(scene, layer)
        return develop(np.random.default_rng(self.film), scene)
