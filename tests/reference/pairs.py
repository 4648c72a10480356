"""Fixtures of small trees of images and masks, laid out as the data sets are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WritePair = Callable[..., tuple[Path, Path]]


def save(path: Path, picture: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)
    return path


def picture(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """A mask of an ellipse, about a tenth of the image."""
    y, x = np.mgrid[:height, :width]
    cy, cx = np.random.default_rng(seed).uniform(0.3, 0.7, 2) * (height, width)
    return np.where(((y - cy) / height) ** 2 + ((x - cx) / width) ** 2 < 0.03, np.uint8(255), np.uint8(0))


@pytest.fixture(scope="session")
def write_pair() -> WritePair:
    """Writes an image and its mask; `seed` makes them differ from others."""

    def write(image: Path, mask: Path, seed: int, height: int = 40, width: int = 60) -> tuple[Path, Path]:
        return save(image, picture(height, width, seed)), save(mask, blob(height, width, seed))

    return write


@pytest.fixture
def pair_folder(tmp_path: Path, write_pair: WritePair) -> Path:
    """`images` and `masks` with the pairs 0 to 7."""
    for seed in range(8):
        write_pair(tmp_path / "images" / f"{seed}.jpg", tmp_path / "masks" / f"{seed}.png", seed, 40 + seed)
    return tmp_path


@pytest.fixture(scope="session")
def hqseg44k(tmp_path_factory: pytest.TempPathFactory, write_pair: WritePair) -> Path:
    """HQSeg-44K's training sets of three pairs each, and its validation set `dis`."""
    from sam2refiner_jax.data.hqseg44k import TRAINING_SETS, VALIDATION_SETS  # once annotations are checked

    root = tmp_path_factory.mktemp("sam-hq")
    for number, part in enumerate([*TRAINING_SETS.values(), VALIDATION_SETS["dis"]]):
        for index in range(3):
            files = root / part.images / f"n{index}.jpg", root / part.masks / f"n{index}.png"
            write_pair(*files, seed=10 * number + index, height=50 + number)
    return root
