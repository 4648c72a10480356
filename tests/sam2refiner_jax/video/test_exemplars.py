"""Exemplars: equal to a frame of the official package's clip that stands before ours, or behind it."""

import numpy as np
import pytest
from small import deep_model, refining_model, wavering
from videos import disk, moving_frames, official_and_ours_video, write_jpegs

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.data.files import files_in
from sam2refiner_jax.image.preprocess import read_photo
from sam2refiner_jax.video.array_archive import ArchiveError
from sam2refiner_jax.video.policies import Tree

HEIGHT, WIDTH, SIZE = 90, 120, 128
MASK, BOX = disk(0, HEIGHT, WIDTH), [60, 10, 100, 60]


@pytest.fixture(scope="module")
def frames():
    return moving_frames(18, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def predictor():
    return SAM2VideoPredictor(wavering(deep_model()))


def assert_near(found, expected):
    assert np.abs(found - expected).max() <= 1e-3 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("reverse", [False, True])
def test_equals_a_mask_on_the_frame_beside_the_clip(reverse, tmp_path):
    """The official predictor has the exemplar's picture for a frame, ours the rest of the clip.

    So exemplar and clip count as one clip, whose length the pointers' ages are measured by: five frames here. In both,
    a later click corrects the object, and the exemplar's memory is used again.
    """
    count = 5
    frames = write_jpegs(tmp_path / "whole", moving_frames(count, HEIGHT, WIDTH))
    pictures = [read_photo(path) for path in files_in(frames)]
    official, ours = official_and_ours_video("sam2.1_hiera_t", SIZE, exact_memories=True, few_blocks=True)
    at, behind = (count - 1, 0) if reverse else (0, 1)  # the exemplar's frame, and by how much ours are numbered less
    shape = disk(at, HEIGHT, WIDTH)
    official_state = official.init_state(str(frames))
    official.add_new_mask(official_state, at, 1, shape)
    state = ours.init_state([picture for i, picture in enumerate(pictures) if i != at])
    ours.add_exemplar(state, pictures[at], shape, 1)

    def compare(first=None):
        start = at if first is None else first
        expected = list(official.propagate_in_video(official_state, start_frame_idx=start, reverse=reverse))
        ours_first = None if first is None else first - behind
        found = list(ours.propagate_in_video(state, start_frame_idx=ours_first, reverse=reverse))
        expected = [result for result in expected if result[0] != at]
        assert [f for f, _, _ in found] == [f - behind for f, _, _ in expected]
        for one, other in zip(found, expected, strict=True):
            truth = other[2].numpy()
            assert ((one[2] > 0) == (truth > 0)).mean() >= 0.999
            assert 0.001 < (truth > 0).mean() < 0.999
            assert np.abs(one[2] - truth).max() <= 1e-3 * np.abs(truth).max()

    compare()
    click = {"points": np.array([[70.0, 45.0], [20.0, 20.0]]), "labels": np.array([1, 0], np.int32)}
    official.add_new_points_or_box(official_state, 2, 1, **click)
    ours.add_new_points_or_box(state, 2 - behind, 1, **click)
    compare(first=1 if reverse else 3)
    outputs = official_state["output_dict_per_obj"][0]
    tracked = state.objects[1].tracked
    pairs = [(state.exemplars[1][0], outputs["cond_frame_outputs"][at])]
    pairs += [(tracked[f], outputs["non_cond_frame_outputs"][f + behind]) for f in sorted(tracked)]
    assert len(pairs) == count
    for one, other in pairs:
        memory = other["maskmem_features"][0].float().numpy()
        for value, truth in ((one.memory.transpose(2, 0, 1), memory), (one.pointer, other["obj_ptr"][0].numpy())):
            assert np.linalg.norm(value - truth) <= 1e-5 * np.linalg.norm(truth)


@pytest.mark.parametrize(
    "memory",
    ["official", *(pytest.param(policy, marks=pytest.mark.slow) for policy in ("quality", Tree(width=2)))],
    ids=lambda m: m if type(m) is str else m.kind,
)
def test_long_clips_policies_and_refiners(memory, frames):
    """As the clip with the exemplar in front; longer than the pointers reach. (`motion` begins with a box there.)"""
    predictor = SAM2VideoPredictor(refining_model(), memory=memory)
    state = predictor.init_state(frames)
    predictor.add_new_mask(state, 0, 1, MASK)
    expected = [masks for _, _, masks in predictor.propagate_in_video(state)][1:]
    state = predictor.init_state(frames[1:])
    predictor.add_exemplar(state, frames[0], MASK, 1)
    found = [masks for _, _, masks in predictor.propagate_in_video(state)]
    assert len(found) == len(expected) == 17
    for one, other in zip(found, expected, strict=True):
        assert ((one > 0) == (other > 0)).mean() >= 0.999


@pytest.mark.slow
def test_motion_is_told_no_box_of_an_exemplar(frames):
    predictor = SAM2VideoPredictor(wavering(deep_model()), memory="motion")
    state = predictor.init_state(frames[1:6])
    predictor.add_exemplar(state, frames[0], MASK, 1)
    bank = predictor._bank(list(state.objects.values()), 0, False)
    assert bank.prompted.frames.tolist() == [[-1]]
    assert not np.asarray(bank.prompts.boxes).any()
    assert len(list(predictor.propagate_in_video(state))) == 5


def test_order_says_nothing_but_every_exemplar_counts(predictor, frames):
    shown = [(frames[i], disk(i, HEIGHT, WIDTH)) for i in (0, 9, 17)]
    exemplars = [predictor.make_exemplar(*each) for each in shown]
    results = [
        predictor.find_in_photo(frames[4], {1: [exemplars[i] for i in order]}).masks
        for order in ((0, 1, 2), (2, 0, 1), (0,))
    ]
    assert_near(results[1], results[0])
    assert np.abs(results[2] - results[0]).max() > 1e-2 * np.abs(results[0]).max()


def test_saved_and_loaded(predictor, frames, tmp_path):
    """The same bits; the size of a file is that of its memories."""
    exemplars = {"disk": [predictor.make_exemplar(frames[0], MASK), predictor.make_exemplar(frames[2], MASK)], 7: []}
    exemplars[7].append(predictor.make_exemplar(frames[1], ~MASK))
    path = tmp_path / "disk.npz"
    predictor.save_exemplars(exemplars, path)
    loaded = predictor.load_exemplars(path)
    assert list(loaded) == ["disk", 7]
    for obj_id, several in exemplars.items():
        for one, other in zip(several, loaded[obj_id], strict=True):
            assert other.memory.dtype == "bfloat16"
            assert one.memory.tobytes() == other.memory.tobytes()
            assert one.pointer.tobytes() == other.pointer.tobytes()
            assert other.object_score_logit == one.object_score_logit == 10
    for one, other in zip(*(predictor.find_in_photo(frames[5], e) for e in (exemplars, loaded)), strict=True):
        np.testing.assert_array_equal(one, other)
    state = predictor.init_state(frames[:3])
    predictor.add_exemplars(state, loaded)
    predictor.save_exemplars(state, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes()[-2000:] == path.read_bytes()[-2000:]
    with pytest.raises(FileExistsError, match="exists already"):
        predictor.save_exemplars(exemplars, path)
    with pytest.raises(ValueError, match="at least one exemplar, got none"):
        predictor.save_exemplars({}, tmp_path / "none.npz")
    other = SAM2VideoPredictor(deep_model())
    with pytest.raises(ValueError, match=r"disk\.npz was made with other settings: weights was"):
        other.load_exemplars(path)
    predictor.save_state(state, tmp_path / "state.npz")
    with pytest.raises(ArchiveError, match=r"state\.npz must be a file of exemplars of the form"):
        predictor.load_exemplars(tmp_path / "state.npz")


@pytest.mark.slow
def test_a_state_with_exemplars_is_saved(predictor, frames, tmp_path):
    """Also in the middle of tracking backwards, where exemplars stand behind the clip."""
    state = predictor.init_state(frames[:6])
    predictor.add_exemplar(state, frames[9], disk(9, HEIGHT, WIDTH), 1)
    predictor.add_new_points_or_box(state, 3, 2, box=BOX)
    results = [result[2] for result in predictor.propagate_in_video(state, reverse=True)]
    assert len(results) == 6
    again = predictor.init_state(frames[:6])
    predictor.add_exemplar(again, frames[9], disk(9, HEIGHT, WIDTH), 1)
    predictor.add_new_points_or_box(again, 3, 2, box=BOX)
    list(predictor.propagate_in_video(again, reverse=True, max_frame_num_to_track=1))
    predictor.save_state(again, tmp_path / "state.npz")
    loaded = predictor.load_state(tmp_path / "state.npz", frames[:6])
    assert list(loaded.exemplars) == [1]
    rest = [masks for _, _, masks in predictor.propagate_in_video(loaded, start_frame_idx=3, reverse=True)]
    np.testing.assert_array_equal(np.stack(rest), np.stack(results[2:]))


def test_prompts_exemplars_and_streams(predictor, frames):
    """An exemplar may come later, counts beside prompts, and serves a live stream."""
    state = predictor.init_state(frames[:4])
    with pytest.raises(RuntimeError, match="No input points or masks"):
        next(predictor.propagate_in_video(state))
    predictor.add_new_mask(state, 0, 1, MASK)
    before = [masks for _, _, masks in predictor.propagate_in_video(state)]
    exemplar = predictor.add_exemplar(state, frames[8], disk(8, HEIGHT, WIDTH), 1)
    after = [masks for _, _, masks in predictor.propagate_in_video(state)]
    assert len(after) == 4
    np.testing.assert_array_equal(after[0], before[0])  # the mask that was given
    assert np.abs(after[1] - before[1]).max() > 0
    live = predictor.init_state(iter(frames[:4]))
    predictor.add_exemplars(live, {1: [exemplar]})
    # A stream's length is not known, so pointers' ages are measured as in a long clip.
    stored = predictor.init_state(frames)
    predictor.add_exemplars(stored, {1: [exemplar]})
    for (_, _, one), (_, _, other) in zip(
        predictor.propagate_in_video(live), predictor.propagate_in_video(stored, max_frame_num_to_track=3), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    predictor.reset_state(stored)
    assert stored.exemplars == {}


def test_bad_exemplars(predictor, frames):
    state = predictor.init_state(frames[:2])
    with pytest.raises(ValueError, match=r"mask must be of the image's size, \(90, 120\), got \(10, 120\)"):
        predictor.add_exemplar(state, frames[0], MASK[:10], 1)
    with pytest.raises(ValueError, match="mask must show the object, got one that is 0 everywhere"):
        predictor.add_exemplar(state, frames[0], 0 * MASK, 1)
    with pytest.raises(ValueError, match="at least one exemplar, got none"):
        predictor.find_in_photo(frames[0], {1: []})
    large = SAM2VideoPredictor(official_and_ours_video("sam2.1_hiera_t", SIZE, few_blocks=True)[1].model)
    with pytest.raises(ValueError, match=r"must have memory and pointer of shapes .*\(4, 4, 64\).*have .*\(8, 8, 64\)"):
        predictor.add_exemplars(state, {1: [large.make_exemplar(frames[0], MASK)]})
    assert state.objects == {}
