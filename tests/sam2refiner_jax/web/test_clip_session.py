"""A video on the page: its masks are the predictor's, and it plays with them."""

import io
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from small import refining_model
from videos import moving_frames, write_video

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.image.overlay import draw_overlay
from sam2refiner_jax.web.clip import ClipSession
from sam2refiner_jax.web.limits import Limits, Refused
from sam2refiner_jax.web.photo import MOST_CLICKS
from sam2refiner_jax.web.sessions import Turns

COUNT, HEIGHT, WIDTH = 5, 48, 64


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    frames = moving_frames(COUNT, HEIGHT, WIDTH)
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames).read_bytes()


@pytest.fixture
def session(data):
    return ClipSession(refining_model(), data, Limits(), refine=True)


def track(session):
    return list(session.propagate(Turns()))


def test_masks_are_the_predictors_in_both_directions(session, data):
    session.click(2, 0.25, 0.5, 1)
    session.click(2, 0.75, 0.5, 0)
    predictor = SAM2VideoPredictor(refining_model(), add_all_frames_to_correct_as_cond=True)
    state = predictor.init_state(data)
    points = np.array([[0.25 * WIDTH, 0.5 * HEIGHT], [0.75 * WIDTH, 0.5 * HEIGHT]], np.float32)
    _, _, logits = predictor.add_new_points_or_box(state, 2, 1, points[:1], np.array([1]))
    _, _, logits = predictor.add_new_points_or_box(state, 2, 1, points, np.array([1, 0]))
    np.testing.assert_array_equal(session.mask(2), logits[0, 0] > 0)
    assert session.mask(0) is None

    assert track(session) == [1, 2, 3, 4, 5]
    passes = [predictor.propagate_in_video(state, 2), predictor.propagate_in_video(state, 2, reverse=True)]
    expected = {index: logits[0, 0] > 0 for index, _, logits in itertools.chain(*passes)}
    assert sorted(expected) == list(range(COUNT))
    for index, mask in expected.items():
        np.testing.assert_array_equal(session.mask(index), mask)
    assert len({mask.tobytes() for mask in expected.values()}) > 1


def test_the_result_plays_at_the_videos_times_with_the_masks(session):
    session.click(0, 0.25, 0.5, 1)
    track(session)
    with av.open(io.BytesIO(session.result())) as container:
        stream = container.streams.video[0]
        shown = [(frame.pts * stream.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    assert [time for time, _ in shown] == [Fraction(i, 12) for i in range(COUNT)]
    for index, (_, picture) in enumerate(shown):
        frame = session.frame(index)
        expected = draw_overlay(frame, session.mask(index)[None])
        apart = [np.abs(picture.astype(int) - other).mean() for other in (expected, frame)]
        assert apart[0] < 15 < apart[1]


def test_clicks_are_taken_back_one_by_one(session):
    assert session.undo() is None
    session.click(1, 0.25, 0.5, 1)
    first = session.mask(1)
    session.click(1, 0.75, 0.5, 0)
    session.click(3, 0.3, 0.5, 1)
    track(session)
    assert session.mask(0) is not None
    assert session.undo() == 3
    assert session.undo() == 1
    np.testing.assert_array_equal(session.mask(1), first)
    assert list(session.clicks) == [1]
    assert [session.mask(i) is None for i in range(COUNT)] == [True, False, True, True, True]
    assert session.undo() == 1
    assert not session.clicks
    assert session.mask(1) is None
    with pytest.raises(Refused, match="Click on the object"):
        track(session)


def test_a_click_after_tracking_puts_away_what_was_tracked(session):
    session.click(0, 0.25, 0.5, 1)
    track(session)
    session.click(3, 0.75, 0.5, 0)
    assert [session.mask(i) is None for i in range(COUNT)] == [False, True, True, False, True]
    track(session)
    assert all(session.mask(i) is not None for i in range(COUNT))
    session.clear()
    assert all(session.mask(i) is None for i in range(COUNT))


def test_while_it_is_tracked_nothing_else_may_change(session):
    session.click(0, 0.25, 0.5, 1)
    turns = Turns()
    progress = session.propagate(turns)
    assert next(progress) == 1
    with turns:  # which is free between frames
        for change in (lambda: session.click(0, 0.1, 0.1, 1), session.undo, session.clear, lambda: track(session)):
            with pytest.raises(Refused, match="being tracked"):
                change()
    session.closed = True
    with pytest.raises(Refused, match="was closed"):
        next(progress)
    session.closed = False
    assert track(session)[-1] == COUNT


def test_what_cannot_be_meant_is_refused(session, data):
    for index in (-1, COUNT):
        with pytest.raises(Refused, match=f"frames are 0 to {COUNT - 1}"):
            session.click(index, 0.5, 0.5, 1)
        with pytest.raises(Refused, match=f"frames are 0 to {COUNT - 1}"):
            session.frame(index)
    for _ in range(MOST_CLICKS):
        session.click(0, 0.5, 0.5, 1)
    with pytest.raises(Refused, match=f"{MOST_CLICKS} clicks a frame are the most"):
        session.click(0, 0.5, 0.5, 1)
    with pytest.raises(Refused, match="more than 4 frames"):
        ClipSession(refining_model(), data, Limits(frames=4), refine=True)


def test_frames_are_shown_as_they_are(session):
    for index in (3, 0):
        truth = moving_frames(COUNT, HEIGHT, WIDTH)[index]
        assert session.frame(index).shape == (HEIGHT, WIDTH, 3)
        assert np.abs(session.frame(index).astype(int) - truth).mean() < 15
