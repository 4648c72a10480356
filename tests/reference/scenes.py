"""Small scenes with masks: images, and frames whose values number the objects."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH, FRAMES = 60, 80, 6


def scene(seed: int, objects: int = 1, height: int = HEIGHT, width: int = WIDTH):
    """A noisy photo with bright ellipses, and their masks."""
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 90, (height, width, 3), np.uint8)
    masks = []
    for _ in range(objects):
        mask = np.zeros((height, width), np.uint8)
        centre = (int(rng.integers(15, width - 15)), int(rng.integers(12, height - 12)))
        cv2.ellipse(mask, centre, (int(rng.integers(6, 14)), int(rng.integers(5, 11))), 30, 0, 360, 255, -1)
        photo[mask > 0] = rng.integers(150, 255, 3)
        masks.append(mask)
    return photo, masks


def write_pairs(folder: Path, count: int, seed: int = 0) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for i in range(count):
        photo, (mask,) = scene(seed + i, height=HEIGHT + i)
        Image.fromarray(photo).save(folder / "images" / f"photo{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"photo{i}.png")
    return folder


def numbered_frames(count: int = FRAMES) -> list[np.ndarray]:
    """Object 1 moves right, object 2, which comes in with the third frame, moves down."""
    frames = []
    for i in range(count):
        numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.circle(numbers, (20 + 3 * i, 30), 12, 1, -1)
        if i >= 2:
            cv2.circle(numbers, (60, 15 + 4 * i), 8, 2, -1)
        frames.append(numbers)
    return frames


def write_annotations(folder: Path, frames: list[np.ndarray], names: list[str] | None = None) -> Path:
    folder.mkdir(parents=True)
    for i, numbers in enumerate(frames):
        Image.fromarray(numbers).save(folder / f"{names[i] if names else f'{i:05d}'}.png")
    return folder


def write_frames(folder, frames):
    """Photos whose red is ten times the frame's number and whose blue is ten times the object's."""
    folder.mkdir(parents=True)
    for i, numbers in enumerate(frames):
        Image.fromarray(np.stack([np.full_like(numbers, 10 * i), numbers, 10 * numbers], axis=-1)).save(
            folder / f"{i:05d}.jpg", quality=100, subsampling=0
        )
    return folder
