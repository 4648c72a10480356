"""Results of past frames wait in a file: nothing else changes, and what is in memory does not grow."""

import copy
import dataclasses
import gc
import pickle
import tempfile

import numpy as np
import pytest
from disks import files_of_at_most
from small import refining_model
from videos import disk, moving_frames

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.video.array_file import ArrayFile

HEIGHT, WIDTH, FRAMES = 90, 120, 44
# Of each object, besides the prompt: those near it, those that the next frame looks back on, and the newest.
NEAR, RECENT = 15, 16 + 1
BOX = np.float32([20, 25, 60, 70])
CORRECTION = {"points": [[40, 45], [5, 5]], "labels": [1, 0]}
ARRAYS = ("mask", "pointer", "memory", "refined")


@pytest.fixture(scope="module")
def predictor():
    return SAM2VideoPredictor(refining_model())


@pytest.fixture(scope="module")
def frames():
    return moving_frames(FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def in_memory(predictor, frames):
    """The masks of the clip where all results stay in memory."""
    state = prompted(predictor, frames)
    state.recent = None
    masks = [masks for *_, masks in predictor.propagate_in_video(state)]
    assert state.file.size == 0
    return state, masks


@pytest.fixture(scope="module")
def tracked(predictor, frames):
    """A state after the clip, to be copied."""
    state = prompted(predictor, frames)
    list(predictor.propagate_in_video(state))
    assert stored(state) == FRAMES - 1 - NEAR - RECENT
    return state


def prompted(predictor, source, **options):
    state = predictor.init_state(source, **options)
    predictor.add_new_points_or_box(state, 0, 1, box=BOX)
    return state


def results_in(state):
    """All results, in memory or not."""
    for history in state.objects.values():
        for record in history.frames.values():
            yield from (result for result in (record.prompted, record.tracked) if result is not None)


def bytes_held(state):
    """Bytes of all arrays of results that are in memory."""
    arrays = [vars(result).get(name) for result in results_in(state) for name in ARRAYS]
    return sum(array.nbytes for array in arrays if array is not None)


def stored(state):
    return sum(result.stored is not None for result in results_in(state))


def size_of_one(state):
    return sum(getattr(next(results_in(state)), name).nbytes for name in ARRAYS)


def assert_same_results(a, b):
    assert a.obj_ids == b.obj_ids
    for one, other in zip(a.objects.values(), b.objects.values(), strict=True):
        assert list(one.frames) == list(other.frames)
        for kind in ("prompted", "tracked"):
            mine, theirs = getattr(one, kind), getattr(other, kind)
            assert list(mine) == list(theirs)
            for frame in mine:
                for field in dataclasses.fields(mine[frame]):
                    if field.name != "stored":
                        x, y = (np.asarray(getattr(results[frame], field.name)) for results in (mine, theirs))
                        np.testing.assert_array_equal(x, y, strict=True)


def test_every_use_of_old_results_gives_what_it_gives_from_memory(predictor, tracked, in_memory):
    """Corrections by clicks, propagation from there, backwards, clearing prompts, removing an object."""
    states, shown = (copy.deepcopy(tracked), copy.deepcopy(in_memory[0])), []
    for state in states:
        seen = [predictor.add_new_points_or_box(state, 20, 1, **CORRECTION)[2]]
        seen.append(predictor.add_new_mask(state, 24, 2, disk(24, HEIGHT, WIDTH))[2])
        seen += [masks for *_, masks in predictor.propagate_in_video(state, 24, 3)]
        seen.append(predictor.add_new_mask(state, 22, 1, disk(22, HEIGHT, WIDTH))[2])
        seen += [masks for *_, masks in predictor.propagate_in_video(state, 21, 2, reverse=True)]
        seen.append(predictor.clear_all_prompts_in_frame(state, 22, 1)[2])
        seen += [masks for *_, masks in predictor.propagate_in_video(state, 23, 1)]
        seen += [result.finest for result in state.results_on(18) if result is not None]
        seen += [masks for _, masks in predictor.remove_object(state, 2)[1]]
        shown.append(seen)
    assert stored(states[0]) > 5
    assert stored(states[1]) == 0
    assert len(shown[0]) == len(shown[1])
    for mine, theirs in zip(*shown, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert_same_results(*states)


@pytest.mark.slow
def test_what_is_in_memory_does_not_grow(predictor):
    """The file grows instead, and reading from it keeps nothing."""
    source, seen = moving_frames(4, HEIGHT, WIDTH), {}
    state = prompted(predictor, [source[i % 4] for i in range(61)])
    predictor.add_new_points_or_box(state, 0, 2, points=[[80, 40]], labels=[1])
    for frame, *_ in predictor.propagate_in_video(state):
        if frame in (36, 48, 60):
            seen[frame] = bytes_held(state), state.file.size
    one = size_of_one(state)
    assert {held for held, _ in seen.values()} == {2 * (1 + NEAR + RECENT) * one}
    assert [size // one for _, size in seen.values()] == [2 * (frame - NEAR - RECENT) for frame in seen]
    assert state.file.used == state.file.size
    for result in results_in(state):
        assert [getattr(result, name).nbytes > 0 for name in ARRAYS] == [True] * 4
    assert bytes_held(state) == seen[60][0]
    # A second time: their space is used again.
    list(predictor.propagate_in_video(state, 14, 12))
    assert bytes_held(state) == seen[60][0]
    assert state.file.size <= seen[60][1] + 2 * one
    predictor.reset_state(state)
    assert state.file.size == 0


def test_corrected_frames_go_back_to_the_file(predictor, tracked):
    state = copy.deepcopy(tracked)
    held = bytes_held(state)
    for frame in range(17, 20):
        predictor.add_new_points_or_box(state, frame, 1, **CORRECTION)
    list(predictor.propagate_in_video(state, 24, RECENT))
    for frame in range(17, 20):
        assert state.objects[1].tracked[frame].stored is not None
    assert bytes_held(state) == held


def test_a_limited_history_writes_what_it_keeps_and_no_more(predictor, frames):
    """With 16 frames nothing is old, not even going both ways; with more, forgotten frames make room for new ones."""
    state = predictor.init_state(frames, history=16)
    predictor.add_new_points_or_box(state, 20, 1, box=BOX)
    list(predictor.propagate_in_video(state))
    list(predictor.propagate_in_video(state, start_frame_idx=20, reverse=True))
    assert state.file.size == 0
    live = prompted(predictor, iter(frames), history=20)
    list(predictor.propagate_in_video(live))
    assert stored(live) == 20 - RECENT
    assert live.file.size == (20 - RECENT + 1) * size_of_one(live)


def test_nothing_reads_all_frames(predictor, tracked, monkeypatch):
    """Starting reads what the first frame looks back on, and going on reads nothing."""
    state, reads = copy.deepcopy(tracked), []
    read = ArrayFile._read
    monkeypatch.setattr(ArrayFile, "_read", lambda *args: reads.append(args) or read(*args))
    predictor.propagate_in_video_preflight(state)
    history = state.objects[1]
    assert (len(history.tracked), history.prompt_frames(), history.new_frames()) == (FRAMES - 1, [0], set())
    assert [state.scores_on(frame).predicted_iou.shape for frame in range(FRAMES)] == [(1,)] * FRAMES
    copy.deepcopy(state)
    assert reads == []
    assert stored(state) == FRAMES - 1 - NEAR - RECENT == 11  # frames 16 to 26
    list(predictor.propagate_in_video(state, 27, 3))
    assert len(reads) == 11 + 6  # pointers, and memories of the last six frames
    reads.clear()
    predictor.add_new_points_or_box(state, 20, 1, **CORRECTION)
    assert len(reads) == 4 + 4 + 2  # pointers and memories of 16 to 19, and the mask that is corrected, coarse and fine


@pytest.mark.slow
def test_copies_and_pickles_go_on_alike(predictor, frames):
    state = prompted(predictor, frames)
    list(predictor.propagate_in_video(state, max_frame_num_to_track=36))
    copied, unpickled = copy.deepcopy(state), pickle.loads(pickle.dumps(state))
    assert copied.file is state.file
    assert stored(unpickled) == stored(state) == 36 - NEAR - RECENT
    assert_same_results(state, unpickled)
    expected = [masks for *_, masks in predictor.propagate_in_video(state, 22, 2)]
    opened = state.file._file
    predictor.reset_state(state)
    for other in (copied, unpickled):
        found = [masks for *_, masks in predictor.propagate_in_video(other, 22, 2)]
        np.testing.assert_array_equal(found, expected)
    assert not opened.closed
    del copied, other
    gc.collect()
    assert opened.closed


@pytest.mark.parametrize("is_live", [False, True])
def test_a_full_disk_loses_nothing(predictor, frames, in_memory, tmp_path, monkeypatch, is_live):
    """The error comes after the frame before it was given, and propagation goes on from there when there is space."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    state = prompted(predictor, iter(frames), history=100) if is_live else prompted(predictor, frames)
    found, room = {}, 5 * size_of_one(in_memory[0]) + 100

    def go_on(**kwargs):
        for frame, _, masks in predictor.propagate_in_video(state, **kwargs):
            assert frame not in found
            found[frame] = masks

    with files_of_at_most(room), pytest.raises(OSError, match=rf"bytes cannot be written .* in {tmp_path}: File .*"):
        go_on()
    assert sorted(found) == list(range(state.last_frame + 1))
    assert stored(state) == 5
    assert state.file.used == state.file.size < room
    go_on(start_frame_idx=None if is_live else state.last_frame + 1)
    assert list(found) == list(range(FRAMES))
    if not is_live:  # the length of an iterator is not known, so pointers of the first frames count otherwise
        np.testing.assert_array_equal(list(found.values()), in_memory[1])
