"""Live streams by name: each as it is alone, whatever joins and leaves, without a compilation."""

import itertools

import numpy as np
import pytest
from small import refining_model
from videos import disk, held, moving_frames

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.video import clip_batch
from sam2refiner_jax.video import predictor as video_predictor
from sam2refiner_jax.video.tracking import track_frame

HEIGHT, WIDTH, FRAMES = 80, 100, 12
BOX = np.array([15.0, 20.0, 60.0, 70.0])


@pytest.fixture(scope="module")
def predictor():
    return SAM2VideoPredictor(refining_model())


@pytest.fixture(scope="module")
def clips():
    return {name: moving_frames(FRAMES, HEIGHT + 8 * i, WIDTH, i) for i, name in enumerate(("door", "yard", "roof"))}


def compiled():
    programs = track_frame, clip_batch._encode_frames, video_predictor._encode_prompted
    return [program._cache_size() for program in programs]


def assert_same(shown, expected):
    assert shown[:2] == expected[:2]
    assert ((shown[2] > 0) == (expected[2] > 0)).mean() >= 0.9999
    for ours, theirs in zip(shown[3], expected[3], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_streams_join_and_leave(predictor, clips):
    """Each gives what it gives alone; one waits, one leaves, one gets its place, and nothing is compiled for it."""
    expected = {}
    for name, frames in clips.items():
        state = predictor.init_state(iter(frames))
        predictor.add_new_points_or_box(state, 0, 1, box=BOX)
        expected[name] = list(predictor.propagate_in_video(state, return_scores=True))
    streams = predictor.open_streams(streams=2, objects=2)
    counts, seen = [], []

    def join(name):
        predictor.add_new_points_or_box(streams.add(name, clips[name][0]), 0, 1, box=BOX)

    def step(**frames):
        shown = streams.step({name: clips[name][i] for name, i in frames.items()}, return_scores=True)
        assert list(shown) == list(frames)
        for name, i in frames.items():
            assert shown[name][0] == i
            assert_same(shown[name], expected[name][i])
            seen.append((name, i))
        counts.append(compiled())

    join("door")
    step(door=1)
    join("yard")
    step(door=2, yard=1)
    step(yard=2)
    step(yard=3, door=3)
    streams.remove("door")
    assert (len(streams), list(streams), "door" in streams) == (1, ["yard"], False)
    step(yard=4)
    join("roof")
    step(yard=5, roof=1)
    streams.remove("yard")
    join("door")  # again, from its start
    for i in range(1, 6):
        step(door=i, roof=i + 1)
    assert counts[0] == counts[-1]
    assert len(seen) == 19


def test_room_grows_once(predictor, clips):
    streams = predictor.open_streams()
    frames = clips["door"]
    for _ in range(2):
        before = compiled()
        for name in range(3):
            predictor.add_new_points_or_box(streams.add(name, frames[0]), 0, 1, box=BOX)
            shown = streams.step(dict.fromkeys(streams, frames[1]))
            assert len(shown) == name + 1
        for name in range(3):
            streams.remove(name)
    assert compiled() == before


def test_prompts_between_steps(predictor, clips):
    """No objects at first; then one, a second one, a correction of the first, and one that is removed."""
    frames = clips["yard"]
    streams = predictor.open_streams()
    pushed = streams.add("yard", frames[0])
    pulled = predictor.init_state(iter(frames))

    def prompts(state, frame):
        if frame == 2:
            predictor.add_new_points_or_box(state, 2, "a", box=BOX)
        elif frame == 4:
            predictor.add_new_mask(state, 4, "b", disk(4, HEIGHT + 8, WIDTH))
        elif frame == 6:
            predictor.add_new_points_or_box(state, 5, "a", points=[[40, 44]], labels=[1])
        elif frame == 8:
            predictor.remove_object(state, "a")

    for i in range(1, 3):
        index, ids, masks = streams.step({"yard": frames[i]})["yard"]
        assert (index, ids, masks.shape) == (i, [], (0, 1, HEIGHT + 8, WIDTH))
    for _ in itertools.islice(pulled.frames.ahead(itertools.count()), 3):
        pass
    prompts(pushed, 2)
    prompts(pulled, 2)
    list(predictor.propagate_in_video(pulled, max_frame_num_to_track=0))
    for i in range(3, FRAMES):
        shown = streams.step({"yard": frames[i]}, return_scores=True)["yard"]
        (expected,) = predictor.propagate_in_video(pulled, max_frame_num_to_track=0, return_scores=True)
        assert_same(shown, expected)
        prompts(pushed, i)
        prompts(pulled, i)
    assert shown[1] == ["b"]
    predictor.reset_state(streams["yard"])
    assert streams.step({"yard": frames[0]})["yard"][1] == []


@pytest.mark.slow
def test_nothing_grows(predictor, clips):
    frames, streams = clips["door"], predictor.open_streams()
    predictor.add_new_points_or_box(streams.add("door", frames[0]), 0, 1, box=BOX)
    seen = {}
    for i in range(1, 41):
        streams.step({"door": frames[i % FRAMES]})
        if i in (20, 40):
            seen[i] = *held(streams["door"]), *compiled()
    assert seen[20] == seen[40]


def test_a_step_that_failed_is_followed_by_others(predictor, clips, monkeypatch):
    """The device's memories are lost with it, and put together of the results again."""

    def fail(*_):
        raise RuntimeError("out of memory")

    found = []
    for fails in (False, True):
        streams = predictor.open_streams()
        predictor.add_new_points_or_box(streams.add("door", clips["door"][0]), 0, 1, box=BOX)
        for i, frame in enumerate(clips["door"][1:4], start=1):
            if i == 2 and fails:
                monkeypatch.setattr(clip_batch, "track_frame", fail)
                with pytest.raises(RuntimeError, match="out of memory"):
                    streams.step({"door": frame})
                monkeypatch.undo()
            elif i != 2:
                shown = streams.step({"door": frame})["door"]
            else:
                streams["door"].frames.push(streams["door"].frames.squeezed(frame))
        found.append(shown)
    assert found[1][0] == 3
    assert ((found[0][2] > 0) == (found[1][2] > 0)).mean() >= 0.9999


def test_what_is_wrong_is_named_and_advances_nothing(predictor, clips):
    streams, frames = predictor.open_streams(), clips["door"]
    state = streams.add("door", frames[0])
    streams.add("yard", frames[0])
    predictor.add_new_points_or_box(state, 0, 1, box=BOX)
    for call, error, message in (
        (lambda: streams.add("door", frames[0]), ValueError, "name must be new, got 'door'"),
        (lambda: streams.remove("roof"), ValueError, r"one of the streams \['door', 'yard'\], got 'roof'"),
        (lambda: streams["roof"], ValueError, "got 'roof'"),
        (lambda: streams.step({"door": frames[1], "roof": frames[1]}), ValueError, "got 'roof'"),
        (
            lambda: streams.step({"door": frames[1], "yard": frames[1][:-2]}),
            ValueError,
            f"stream 'yard': all frames must have one size: frame 1 is {WIDTH} x {HEIGHT - 2}",
        ),
        (lambda: streams.step({"yard": frames[1][..., :2]}), ValueError, "stream 'yard': frame 1"),
        (lambda: predictor.open_streams(streams=0), ValueError, "streams must be at least 1, got 0"),
        (lambda: predictor.open_streams(history=3), ValueError, "history must be at least 16"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert state.frames.indices() == range(1)
    assert streams.step({"door": frames[1]})["door"][0] == 1
    predictor.clear_all_prompts_in_frame(state, 0, 1)
    with pytest.raises(RuntimeError, match="stream 'door': No input points or masks are provided for object id 1"):
        streams.step({"door": frames[2], "yard": frames[1]})
    assert [s.frames.indices().stop for s in (state, streams["yard"])] == [2, 1]
