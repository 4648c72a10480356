"""Many clips as one batch: what one by one gives, without a compilation for each, on one device and on eight."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small import refining_model, small_model
from videos import disk, moving_frames, write_jpegs

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.video import clip_batch
from sam2refiner_jax.video.tracking import track_frame

# Frames and objects of each clip.
CLIPS = [(4, 1), (8, 2), (2, 1), (7, 1)]
BOX = np.array([15.0, 20.0, 60.0, 70.0])
ON_EIGHT_DEVICES = """
import sys
import jax
sys.path[:0] = [{reference!r}, {here!r}]
from test_together import BOX, assert_same, one_by_one, opened, together
from small import small_model
from videos import moving_frames
from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.video import clip_batch

assert jax.device_count() == 8
predictor = SAM2VideoPredictor(small_model())
expected = one_by_one(predictor, opened(predictor))
with jax.set_mesh(jax.make_mesh((2, 4), ("data", "model"))):
    try:
        predictor.propagate_together([], batch=4)
    except ValueError as error:
        assert "multiple of the 8 devices" in str(error), error
    assert_same(together(predictor, opened(predictor)), expected)
    assert clip_batch._track_on_devices._cache_size() > 0
    streams, frames = predictor.open_streams(streams=8, objects=8), moving_frames(4, 80, 100)
    for name in "ab":
        predictor.add_new_points_or_box(streams.add(name, frames[0]), 0, 1, box=BOX)
    steps = [streams.step({{name: frame for name in "ab"}}, return_scores=True) for frame in frames[1:]]
alone = predictor.init_state(iter(frames))
predictor.add_new_points_or_box(alone, 0, 1, box=BOX)
shown = one_by_one(predictor, [alone])[0][1:]
assert_same([[step[name] for step in steps] for name in "ab"], [shown, shown])
print("equal")
"""


def opened(predictor, clips=CLIPS):
    """Clips with objects that have boxes on different frames, one of them on two."""
    states = predictor.init_states(moving_frames(count, 80 + 4 * i, 100, i) for i, (count, _) in enumerate(clips))
    for state, (count, objects) in zip(states, clips, strict=True):
        for number in range(objects):
            predictor.add_new_points_or_box(state, min(number, count - 1), number, box=BOX + 5 * number)
        if count > 6:
            predictor.add_new_mask(state, 4, 0, disk(4, state.video_height, 100))
    return states


def one_by_one(predictor, states, **options):
    return [list(predictor.propagate_in_video(state, return_scores=True, **options)) for state in states]


def together(predictor, states, *, into=None, **options):
    """By clip, what comes of it, in the order in which it comes."""
    found = [[] for _ in states] if into is None else into
    for state, *shown in predictor.propagate_together(states, return_scores=True, **options):
        found[[other is state for other in states].index(True)].append(tuple(shown))
    return found


def assert_same(found, expected):
    """Equal masks in at least 99.99 % of the pixels, in the same order of frames, and equal scores."""
    for clip, reference in zip(found, expected, strict=True):
        assert [(shown[0], shown[1]) for shown in clip] == [(shown[0], shown[1]) for shown in reference]
        for (*_, masks, scores), (*_, expected_masks, expected_scores) in zip(clip, reference, strict=True):
            assert masks.shape == expected_masks.shape
            assert ((masks > 0) == (expected_masks > 0)).mean() >= 0.9999
            for ours, theirs in zip(scores, expected_scores, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.fixture(scope="module")
def small():
    return SAM2VideoPredictor(small_model())


@pytest.mark.parametrize(
    ("model", "memory"),
    [
        pytest.param(small_model, "official", marks=pytest.mark.slow),
        (refining_model, "official"),
        pytest.param(small_model, "tree", marks=pytest.mark.slow),
    ],
)
def test_equal_to_one_by_one(model, memory):
    """Clips of different lengths, sizes, objects and prompts; of a policy with several paths too."""
    predictor = SAM2VideoPredictor(model(), memory=memory)
    alone, states = opened(predictor), opened(predictor)
    expected = one_by_one(predictor, alone)
    found = together(predictor, states, batch=2)
    assert_same(found, expected)
    assert len({masks.tobytes() for clip in found for _, _, masks, _ in clip}) > sum(n for n, _ in CLIPS) / 2
    for ours, theirs in zip(states, alone, strict=True):  # from which corrections and other propagations go on
        for obj_id, history in theirs.objects.items():
            results = ours.objects[obj_id].tracked
            assert list(results) == list(history.tracked)
            for frame, result in history.tracked.items():
                memories = results[frame].memory, result.memory
                np.testing.assert_allclose(*(memory.astype(np.float32) for memory in memories), atol=2e-2)
                assert (results[frame].snapshot is None) == (result.snapshot is None)
    assert_same(
        together(predictor, states, start_frame_idx=1, batch=2), one_by_one(predictor, alone, start_frame_idx=1)
    )


@pytest.mark.slow
def test_backwards_and_forgetting():
    predictor = SAM2VideoPredictor(small_model(), clear_non_cond_mem_around_input=True, non_overlap_masks=True)
    states, alone = opened(predictor), opened(predictor)
    for options in ({}, {"reverse": True, "start_frame_idx": 1}, {"max_frame_num_to_track": 1}):
        assert_same(together(predictor, states, batch=2, **options), one_by_one(predictor, alone, **options))


def test_a_place_that_is_left_compiles_nothing(small):
    """Ten clips in two places need the programs of two clips and of one, and ten others none."""
    lengths = [3, 5, 2, 6, 4, 3, 6, 2, 5, 3]
    compiled = (track_frame, clip_batch._encode_frames)
    for program in compiled:
        program.clear_cache()
    for clips in (lengths, [n - 1 for n in reversed(lengths)]):
        found = together(small, opened(small, [(n, 1) for n in clips]), batch=2)
        assert [len(clip) for clip in found] == clips
        assert [program._cache_size() for program in compiled] == [2, 2]


def test_clips_are_asked_for_when_there_is_place(small):
    states, asked = opened(small, [(4, 1), (3, 1), (3, 1), (2, 1)]), []
    waiting = (asked.append(i) or state for i, state in enumerate(states))
    seen = []
    for state, frame, _, _ in small.propagate_together(waiting, batch=2):
        number = [other is state for other in states].index(True)
        seen.append((number, frame))
        assert len(asked) <= 2 + sum(frame == len(states[i].frames) - 1 for i, frame in seen)
    assert sorted(seen) == [(i, frame) for i, state in enumerate(states) for frame in range(len(state.frames))]


def test_an_unreadable_frame_ends_its_clip_alone(small, tmp_path):
    folder = write_jpegs(tmp_path / "broken", moving_frames(5, 80, 100))
    (folder / "00002.jpg").write_bytes((folder / "00002.jpg").read_bytes()[:700])
    sources = [moving_frames(4, 80, 100), folder, moving_frames(6, 80, 100)]
    states, alone = small.init_states(sources), small.init_states(sources)
    for state in (*states, *alone):
        small.add_new_points_or_box(state, 0, 1, box=BOX)
    found = [[] for _ in states]
    with pytest.raises(ValueError, match=r"inference_states\[1\]: frame 2, .*00002\.jpg, is not a readable picture"):
        together(small, states, into=found, batch=2)
    assert [len(clip) for clip in found] == [4, 2, 6]
    assert_same([found[0], found[2]], one_by_one(small, [alone[0], alone[2]]))


def test_what_is_wrong_is_named(small, tmp_path):
    with pytest.raises(ValueError, match=r"video_paths\[1\] \(.*none\.mp4\) cannot be opened: .*does not exist"):
        small.init_states([moving_frames(2, 80, 100), tmp_path / "none.mp4"])
    states = opened(small, [(2, 1), (2, 1)])
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        small.propagate_together(states, batch=0)
    with pytest.raises(ValueError, match=r"different clips, got one as \[0\] and \[2\]"):
        next(small.propagate_together([*states, states[0]]))
    without = small.init_state(moving_frames(2, 80, 100))
    with pytest.raises(RuntimeError, match=r"inference_states\[2\]: No input points or masks"):
        next(small.propagate_together([*states, without]))
    assert not any(history.tracked for state in states for history in state.objects.values())
    assert list(small.propagate_together([])) == []


@pytest.mark.slow
def test_eight_devices_give_the_same():
    here = Path(__file__).parent
    script = ON_EIGHT_DEVICES.format(reference=str(here.parents[1] / "reference"), here=str(here))
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "equal" in done.stdout
