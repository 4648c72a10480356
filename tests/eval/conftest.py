"""Small sets of images and clips with masks, on disk as users have them."""

from pathlib import Path

import numpy as np
import pytest
from scenes import FRAMES, HEIGHT, WIDTH, numbered_frames, write_annotations, write_pairs
from videos import moving_frames, write_jpegs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """Five images with masks, of different sizes."""
    return write_pairs(tmp_path_factory.mktemp("sets") / "pairs", 5)


@pytest.fixture(scope="session")
def davis(tmp_path_factory) -> Path:
    """Two clips as in DAVIS 2017, one with an object that comes later, and one as in DAVIS 2016."""
    root = tmp_path_factory.mktemp("davis")
    numbered = numbered_frames()
    for name, frames in (
        ("one", [np.where(n == 1, n, 0).astype(np.uint8) for n in numbered]),
        ("two", numbered),
        ("white", [np.where(n == 1, 255, 0).astype(np.uint8) for n in numbered]),
    ):
        write_jpegs(root / "JPEGImages" / "480p" / name, moving_frames(FRAMES, HEIGHT, WIDTH))
        write_annotations(root / "Annotations" / "480p" / name, frames)
    return root
