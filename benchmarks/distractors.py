"""Clips on which trackers lose their object, laid out as DAVIS: look-alikes that cross, what hides, what leaves.

    python benchmarks/distractors.py clips [--shapes 4] [--frames 60] [--size 256]
    sam2refiner eval video clips --checkpoint nano --image-size 256 --memory quality    # and the other policies

Objects and backgrounds are procedural (`train/data/procedural`) and need nothing from disk. Of every shape there are
three clips: `crossing`, in which its mirror image comes the other way and passes in front of it; `hidden`, in which it
goes behind a pillar and is not seen for a third of the clip; and `leaving`, in which it leaves the frame for as long
and comes back.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional

from sam2refiner_jax.data.masks import OBJECT
from sam2refiner_jax.train.data.procedural import ProceduralSource

# Scenes are numbered from here on: no recipe of training comes so far.
FIRST = 2**30 + 2**20
# Sides of the object, as shares of the frame's.
SIDE = 0.28

Cut = tuple[np.ndarray, np.ndarray]


def main(output: Positional[Path], shapes: int = 4, frames: int = 60, size: int = 256, seed: int = 0) -> None:
    """Writes the clips into a folder, which must not exist yet."""
    output.mkdir(parents=True)
    source = ProceduralSource(size, seed)
    for shape in range(shapes):
        thing, other = objects_of(source, FIRST + 100 * shape)
        background = source[FIRST + 100 * shape + 50]["image"]
        for name, clip in (("crossing", crossing), ("hidden", hidden), ("leaving", leaving)):
            for number, (image, mask) in enumerate(clip(background, thing, other, frames)):
                for kind, picture, ending in (("JPEGImages", image, "jpg"), ("Annotations", mask * 255, "png")):
                    folder = output / kind / "480p" / f"{name}-{shape}"
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number:05d}.{ending}", quality=95)


def objects_of(source: ProceduralSource, index: int) -> tuple[Cut, Cut]:
    """The objects of two scenes, cut out: colours and coverage in [0, 1], the longer side `SIDE` of the frame's."""
    cuts: list[Cut] = []
    while len(cuts) < 2:
        scene, index = source[index], index + 1
        x, y, width, height = cv2.boundingRect((scene["mask"] >= OBJECT).astype(np.uint8))
        if min(width, height) < SIDE * len(scene["mask"]) / 2:
            continue
        window, scale = np.s_[y : y + height, x : x + width], SIDE * len(scene["mask"]) / max(width, height)
        parts = scene["image"][window], scene["mask"][window]
        photo, cover = (cv2.resize(p, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for p in parts)
        cuts.append((photo, cover / 255))
    return cuts[0], cuts[1]


def put(image: np.ndarray, mask: np.ndarray, cut: Cut, centre: tuple[float, float], *, tracked: bool) -> None:
    """Draws an object in place, and in the mask of the tracked object what it covers, or uncovers if it is another."""
    photo, cover = cut
    height, width = cover.shape
    x, y = round(centre[0] - width / 2), round(centre[1] - height / 2)
    left, top = max(0, -x), max(0, -y)
    right, bottom = min(width, image.shape[1] - x), min(height, image.shape[0] - y)
    if right <= left or bottom <= top:
        return
    inside, there = np.s_[top:bottom, left:right], np.s_[y + top : y + bottom, x + left : x + right]
    alpha = cover[inside][..., None]
    image[there] = image[there] * (1 - alpha) + photo[inside] * alpha
    mask[there][cover[inside] >= 0.5] = tracked


def crossing(background: np.ndarray, thing: Cut, other: Cut, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A mirror image of the object comes the other way, and passes in front of it."""
    size, twin = len(background), (thing[0][:, ::-1], thing[1][:, ::-1])
    for share in np.linspace(0.15, 0.85, frames):
        image, mask = background.astype(np.float32), np.zeros((size, size), bool)
        put(image, mask, thing, (share * size, 0.5 * size), tracked=True)
        put(image, mask, twin, ((1 - share) * size, 0.55 * size), tracked=False)
        yield image, mask


def hidden(background: np.ndarray, thing: Cut, other: Cut, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The object goes behind a pillar, is not seen for a third of the clip, and comes out again."""
    size = len(background)
    pillar = np.s_[:, round(0.33 * size) : round(0.67 * size)]
    ways = np.concatenate([np.linspace(0.15, 0.5, frames // 3), np.full(frames // 3, 0.5)])
    for share in [*ways, *np.linspace(0.5, 0.85, frames - len(ways))]:
        image, mask = background.astype(np.float32), np.zeros((size, size), bool)
        put(image, mask, thing, (share * size, 0.5 * size), tracked=True)
        image[pillar], mask[pillar] = cv2.GaussianBlur(background[:, ::-1][pillar], (0, 0), 6), False
        put(image, mask, other, (0.5 * size, 0.8 * size), tracked=False)
        yield image, mask


def leaving(background: np.ndarray, thing: Cut, other: Cut, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The object leaves the frame, is away for a third of the clip, and comes back; another stays."""
    size = len(background)
    ways = np.concatenate([np.linspace(0.5, 1.2, frames // 3), np.full(frames // 3, 1.5)])
    for share in [*ways, *np.linspace(1.2, 0.5, frames - len(ways))]:
        image, mask = background.astype(np.float32), np.zeros((size, size), bool)
        put(image, mask, other, (0.25 * size, 0.7 * size), tracked=False)
        put(image, mask, thing, (share * size, 0.4 * size), tracked=True)
        yield image, mask


if __name__ == "__main__":
    tyro.cli(main)
