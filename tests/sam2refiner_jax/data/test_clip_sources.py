"""Clips on disk, in each layout."""

import numpy as np
import pytest
from PIL import Image
from scenes import FRAMES, numbered_frames, write_annotations, write_frames

from sam2refiner_jax.data.clip_sources import Clips, frame_order
from sam2refiner_jax.data.sources import open_source

RNG = np.random.default_rng


def write_clips(folder, images, masks, names=("a", "b")):
    for name in names:
        write_frames(folder / images / name, numbered_frames())
        write_annotations(folder / masks / name, numbered_frames())
    return folder


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("JPEGImages/480p", "Annotations/480p"),
        ("JPEGImages", "Annotations"),
        ("frames", "masks"),
        ("images", "masks"),
    ],
)
def test_layouts(images, masks, tmp_path):
    source = open_source(f"clips:{write_clips(tmp_path, images, masks)}?exclude=a")
    assert isinstance(source, Clips)
    assert len(source) == 1
    assert source.name_of(0) == "clip b"
    clip = source.clip(0, FRAMES, 3, RNG(0), reverse=False)
    assert_is(clip, numbered_frames(), [1])  # object 2 is not in the first frame


def assert_is(clip, frames, objects):
    expected = np.stack([np.stack([numbers == n for n in objects], axis=-1) for numbers in frames]) * np.uint8(255)
    np.testing.assert_array_equal(clip["mask"], expected)
    for image, numbers in zip(clip["image"], frames, strict=True):
        assert np.abs(image[..., 2].astype(int) - 10 * numbers).max() <= 6


def test_backwards(tmp_path):
    source = open_source(f"clips:{write_clips(tmp_path, 'frames', 'masks', ['a'])}")
    clip = source.clip(0, FRAMES, 3, RNG(0), reverse=True)
    assert_is(clip, numbered_frames()[::-1], [1, 2])
    chosen = {source.clip(0, 2, 1, RNG(seed), reverse=True)["mask"][0].sum() for seed in range(8)}
    assert len(chosen) > 1  # either of the two


def test_frames_without_masks_are_passed_over(tmp_path):
    """As in YouTube-VOS; and a clip that is too short is played back and forth."""
    write_clips(tmp_path, "JPEGImages", "Annotations", ["a"])
    for number in (1, 2, 4, 5):
        (tmp_path / "Annotations" / "a" / f"{number:05d}.png").unlink()
    clip = open_source(f"clips:{tmp_path}").clip(0, 4, 1, RNG(0), reverse=False)
    frames = numbered_frames()
    assert_is(clip, [frames[0], frames[3], frames[0], frames[3]], [1])


def test_a_folder_for_each_object(tmp_path):
    """As in SA-V, whose objects are annotated in some frames, each in its own."""
    write_frames(tmp_path / "JPEGImages_24fps" / "a", numbered_frames())
    for number in (1, 2):
        masks = [np.uint8(255) * (numbers == number) for numbers in numbered_frames()][2:5]
        names = ["00002", "00003", "00004"]
        write_annotations(tmp_path / "Annotations_6fps" / "a" / f"{number - 1:03d}", masks, names)
    clip = open_source(f"clips:{tmp_path}").clip(0, 3, 2, RNG(0), reverse=False)
    assert_is(clip, numbered_frames()[2:5], [1, 2])


def test_steps_and_starts(tmp_path):
    """Any start, and any step up to the largest; the clip is not played back where it is long enough."""
    source = open_source(f"clips:{write_clips(tmp_path, 'frames', 'masks', ['a'])}?step=3")
    shown = {
        tuple(source.clip(0, 3, 1, RNG(seed), reverse=False)["image"][..., 0].mean(axis=(1, 2)).round(-1) // 10)
        for seed in range(40)
    }
    assert shown == {(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 2, 4), (1, 3, 5)}
    assert frame_order(3, 7, 1, 0) == [0, 1, 2, 1, 0, 1, 2]
    assert frame_order(1, 3, 1, 0) == [0, 0, 0]


def test_as_a_source_of_photos(tmp_path):
    source = open_source(f"clips:{write_clips(tmp_path, 'frames', 'masks', ['a'])}")
    sample = source[0]
    np.testing.assert_array_equal(sample["mask"], np.uint8(255) * (numbered_frames()[0] == 1))
    assert sample["image"].shape == (*sample["mask"].shape, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("?clips=c", "clips and exclude must name clips in .*, got c"),
        ("?step=0", "step must be at least 1, got 0"),
        ("/frames", "must hold two folders with a folder for each clip: JPEGImages and Annotations .*; found a, b"),
    ],
)
def test_what_cannot_be(spec, message, tmp_path):
    write_clips(tmp_path, "frames", "masks")
    with pytest.raises(ValueError, match=message):
        open_source(f"clips:{tmp_path}{spec}")


def test_broken_files_are_named(tmp_path):
    write_clips(tmp_path, "frames", "masks", ["a"])
    (tmp_path / "masks" / "a" / "00001.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"00001\.png is not a readable picture"):
        open_source(f"clips:{tmp_path}").clip(0, FRAMES, 1, RNG(0), reverse=False)
    Image.fromarray(np.ones((5, 7), np.uint8)).save(tmp_path / "masks" / "a" / "00001.png")
    with pytest.raises(ValueError, match=r"the mask of .*00001\.jpg must be as large as it: it is 7 x 5, not 80 x 60"):
        open_source(f"clips:{tmp_path}").clip(0, FRAMES, 1, RNG(0), reverse=False)
    for path in (tmp_path / "masks" / "a").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"clip a has no frame in .* with a mask in"):
        open_source(f"clips:{tmp_path}")
