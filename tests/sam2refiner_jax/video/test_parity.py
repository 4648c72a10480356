"""Parity with the official predictor at the released size on real clips; minutes a test: `pytest -m slow -s`."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import SideBySide, official_and_ours_video

DATA = Path(os.environ.get("SAM2REFINER_DATA", Path(__file__).parents[4] / "shared" / "data"))
FRAMES = 20
CLICK = np.array([1], np.int32)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "davis2016").exists(), reason="needs clips of DAVIS 2016"),
]


def clip_of(name: str, folder: Path) -> Path:
    """The clip's first frames."""
    for path in sorted((DATA / "davis2016" / "JPEGImages" / "480p" / name).glob("*.jpg"))[:FRAMES]:
        (folder / path.name).symlink_to(path)
    return folder


def truth(name: str, frame: int) -> np.ndarray:
    path = DATA / "davis2016" / "Annotations" / "480p" / name / f"{frame:05d}.png"
    return np.asarray(Image.open(path)) > 0


def middle(mask: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([[x[len(x) // 2], y[len(y) // 2]]], np.float32)


def box(mask: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)


def prompted_by_points_and_corrected(both, name):
    both.call("add_new_points_or_box", 0, 1, points=middle(truth(name, 0)), labels=CLICK)
    both.propagate()
    both.call("add_new_points_or_box", 5, 1, points=middle(truth(name, 5)), labels=CLICK)
    both.propagate(start_frame_idx=6, max_frame_num_to_track=6)


def prompted_by_box_with_a_second_object_and_a_removal(both, name):
    both.call("add_new_points_or_box", 0, 1, box=box(truth(name, 0)))
    both.propagate(max_frame_num_to_track=8)
    both.call("add_new_points_or_box", 8, 2, points=np.array([[300.0, 200.0]]), labels=CLICK)
    both.propagate(start_frame_idx=8, max_frame_num_to_track=6)
    both.call("remove_object", 1)
    both.propagate(start_frame_idx=14)


def prompted_by_a_mask_in_reverse(both, name):
    both.call("add_new_mask", FRAMES - 1, 1, truth(name, FRAMES - 1))
    both.propagate(start_frame_idx=FRAMES - 1, reverse=True)


def check(both, title):
    shares = np.array(both.shares)
    print(
        f"\n{title}: masks agree in >= {both.agreement:.5%} of pixels, memories {both.memory_error:.1e}, "
        f"pointers {both.pointer_error:.1e}; pixels of prompts cut otherwise, and their memories' errors: "
        f"{both.flipped}; masks cover {shares.min():.2f} to {shares.max():.2f}; "
        f"median seconds a frame: official {np.median(both.seconds[0]):.2f}, ours {np.median(both.seconds[1]):.2f}",
        flush=True,
    )
    assert both.agreement >= 0.999
    assert both.memory_error <= 1e-4
    assert all(pixels <= 20 and error <= 1e-2 for pixels, error in both.flipped.values())
    assert both.pointer_error <= 1e-4


@pytest.mark.parametrize(
    "scenario",
    [
        prompted_by_points_and_corrected,
        prompted_by_box_with_a_second_object_and_a_removal,
        prompted_by_a_mask_in_reverse,
    ],
    ids=lambda s: s.__name__,
)
@pytest.mark.parametrize("name", ["sam2.1_hiera_t", "sam2.1_hiera_b+", "sam2_hiera_t"])
def test_real_clip_equals_official(name, scenario, tmp_path):
    both = SideBySide(*official_and_ours_video(name, 1024, exact_memories=True), clip_of("dog", tmp_path))
    scenario(both, "dog")
    check(both, f"{name} {scenario.__name__}")


def test_real_clip_with_rounded_memories(tmp_path):
    both = SideBySide(*official_and_ours_video("sam2.1_hiera_t", 1024), clip_of("car-shadow", tmp_path))
    both.call("add_new_points_or_box", 0, 1, box=box(truth("car-shadow", 0)))
    both.propagate()
    assert both.agreement >= 0.999
    assert both.pointer_error <= 1e-4
