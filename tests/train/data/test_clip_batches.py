"""Batches of clips: static shapes, one augmentation for all frames, photos between them, and going on anywhere."""

import dataclasses

import numpy as np
import pytest
from coloured import Colours, Moving
from scenes import numbered_frames, write_annotations, write_frames

from sam2refiner_jax.data.clip_sources import Clips
from sam2refiner_jax.data.sources import open_source
from sam2refiner_jax.train.config import DataConfig
from sam2refiner_jax.train.data.augment import augment_clip
from sam2refiner_jax.train.data.pipeline import make_batches

SIZE = 32
CONFIG = DataConfig(frames=4, objects=2, reverse=0.5)
OPTIONS = {"image_size": SIZE, "batch_size": 4, "seed": 5, "config": CONFIG}


def take(batches, count):
    return [next(batches) for _ in range(count)]


def batches_of(*sources, **changes):
    return make_batches([(source, 1.0) for source in sources], **OPTIONS | changes)


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert {*batch} == {*other} == {"image", "mask", "visible"}
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_shapes_and_empty_places():
    batch = next(batches_of(Moving(0, 8)))
    assert batch["image"].shape == (4, 4, SIZE, SIZE, 3)
    assert batch["mask"].shape == (4, 4, SIZE, SIZE, 2)
    assert batch["visible"].shape == (4, 4, 2)
    assert batch["visible"][:, 0, 0].all()
    assert not batch["visible"][..., 1].any()
    assert not batch["mask"][..., 1].any()


def test_everything_happens_to_all_frames_alike():
    """Mask and image agree in every frame, and the object keeps its size and its pace."""
    config = dataclasses.replace(CONFIG, jitter=(0.7, 1.5), rotate=0.0, colour=0.2)
    clip = Moving(30, 1).clip(0, 5, 1, None, reverse=False)
    seen = set()
    for seed in range(12):
        result = augment_clip(clip, 64, config, np.random.default_rng(seed))
        for image, mask in zip(result["image"], result["mask"][..., 0], strict=True):
            assert image[mask == 255].min() > 110
            assert len(np.unique(image[mask == 0][:, 0] // 40)) <= 3  # the background and what is beside the image
        backgrounds = [
            image[(mask == 0) & (image[..., 0] != 128)].min(axis=0).astype(int)
            for image, mask in zip(result["image"], result["mask"][..., 0], strict=True)
        ]
        assert np.ptp(backgrounds, axis=0).max() <= 8  # contrast is about a frame's own mean
        seen.add(tuple(backgrounds[0] // 4))
        xs = [np.nonzero((mask[..., 0] > 127).any(axis=0))[0] for mask in result["mask"]]
        inside = [x for x in xs if len(x) and x[0] > 0 and x[-1] < 63]
        steps = np.diff([x[0] for x in inside])
        assert len(steps) == 0 or np.ptp(steps) <= 1
    assert len(seen) > 3


def test_turned_clips_turn_alike():
    clip = Moving(30, 1).clip(0, 3, 1, None, reverse=False)
    still = {name: np.repeat(x[:1], 3, axis=0) for name, x in clip.items()}
    config = DataConfig(flip=False, jitter=None, rotate=30.0)
    result = augment_clip(still, 64, config, np.random.default_rng(1))
    for name in ("image", "mask"):
        assert (result[name] == result[name][:1]).all()
    straight = augment_clip(still, 64, DataConfig(flip=False, jitter=None), np.random.default_rng(1))
    assert (result["mask"] != straight["mask"]).any()


def test_some_are_played_backwards():
    config = dataclasses.replace(CONFIG, flip=False, jitter=None)
    batches = take(batches_of(Moving(0, 8), config=config), 8)
    first = np.concatenate([batch["mask"][:, 0, :, :, 0] for batch in batches])
    starts = [int(np.nonzero((mask > 127).any(axis=0))[0][0]) for mask in first]
    assert len({*starts}) == 2
    assert 0.2 < np.mean(np.array(starts) == min(starts)) < 0.8


def test_an_object_that_is_cut_away_at_the_start_does_not_exist():
    clip = Moving(30, 1).clip(0, 3, 1, None, reverse=False)
    other = np.zeros_like(clip["mask"])
    other[0, 0, 0], other[1:, 20:, 20:] = 255, 255
    clip = {"image": clip["image"], "mask": np.concatenate([clip["mask"], other], axis=-1)}
    result = augment_clip(clip, 32, DataConfig(flip=False, jitter=None), np.random.default_rng(0))
    assert (result["mask"][..., 0] > 127).any(axis=(1, 2)).all()
    assert not result["mask"][..., 1].any()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_going_on_and_sharing(workers):
    """From any batch on, by any number of processes and workers, clips and photos come the same."""
    sources = [(Moving(0, 8), 3.0), (Colours(100, 8), 1.0)]
    whole = make_batches(sources, **OPTIONS)
    expected = take(whole, 8)
    frames = [batch["image"].shape[1] for batch in expected]
    assert frames == [4, 4, 4, 1, 4, 4, 4, 1]
    assert expected[3]["visible"].shape == (4, 1, 2)
    config = dataclasses.replace(CONFIG, workers=workers)
    again = make_batches(sources, **OPTIONS | {"config": config})
    again.set_state({"next_batch": 2})
    assert_equal(take(again, 3), expected[2:5])
    assert again.get_state() == {"next_batch": 5}
    again.close()
    parts = [make_batches(sources, **OPTIONS, process_index=i, process_count=2) for i in range(2)]
    for batch in expected[:4]:
        halves = [next(part) for part in parts]
        joined = {name: np.concatenate([half[name] for half in halves]) for name in batch}
        assert_equal([joined], [batch])


def test_several_photos_for_each_clip():
    """Each as it would be in a batch of fewer: only how many of the stream a batch has is another."""
    sources = [(Moving(0, 8), 1.0), (Colours(100, 8), 1.0)]
    few = [batch for batch in take(make_batches(sources, **OPTIONS), 12) if batch["image"].shape[1] == 1]
    config = dataclasses.replace(CONFIG, photos_per_clip=3)
    clips, photos = take(make_batches(sources, **OPTIONS | {"config": config}), 2)
    assert [*map(len, (clips["image"], photos["image"]))] == [4, 12]
    assert_equal([photos], [{name: np.concatenate([batch[name] for batch in few[:3]]) for name in photos}])
    with pytest.raises(ValueError, match=r"photos_per_clip must be at least 1, and 1 unless frames .* got 2 with 0"):
        DataConfig(photos_per_clip=2)


def test_scenes_that_move():
    """Made the same anywhere, with what a tracker must bear: objects that leave, come back and are hidden."""
    source = open_source("procedural-clips:?size=64&length=40")
    assert isinstance(source, Clips)
    rng = np.random.default_rng(0)
    clip = source.clip(3, 6, 3, rng, reverse=False)
    np.testing.assert_array_equal(source.clip(3, 6, 3, rng, reverse=False)["image"], clip["image"])
    np.testing.assert_array_equal(source[3]["image"], clip["image"][0])
    gone = back = hidden = changed = 0
    for index in range(24):
        clip = source.clip(index, 10, 3, rng, reverse=False)
        areas = (clip["mask"] > 127).mean(axis=(1, 2))
        assert (areas[0] > 0.002).all()
        changed += (clip["image"][1:] != clip["image"][:-1]).any()
        for area in areas.T:
            missing = area < 1e-3
            gone += missing.any()
            back += bool(missing.any() and not missing[missing.argmax() :].all())
            hidden += bool((area[1:] < 0.6 * area[0]).any())
    print(f"of the objects of 24 clips, {gone} leave, {back} of which come back; {hidden} lose much of their area")
    assert gone > back > 0
    assert hidden > 5
    assert changed == 24


def test_a_clip_played_backwards_is_the_same_scene():
    source = open_source("procedural-clips:?size=64")
    rng = np.random.default_rng(0)
    forwards, backwards = (source.clip(1, 5, 3, rng, reverse=reverse)["image"] for reverse in (False, True))
    np.testing.assert_array_equal(backwards, forwards[::-1])


def test_clips_on_disk_in_batches(tmp_path):
    for name in "ab":
        write_frames(tmp_path / "frames" / name, numbered_frames())
        write_annotations(tmp_path / "masks" / name, numbered_frames())
    batch = next(batches_of(open_source(f"clips:{tmp_path}"), config=dataclasses.replace(CONFIG, jitter=None)))
    assert batch["visible"][:, 0].any(axis=1).all()
