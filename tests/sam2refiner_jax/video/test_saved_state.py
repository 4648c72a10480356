"""States in files: what goes on from one has the bits of what was never stopped."""

import dataclasses
import json
import zipfile

import jax
import numpy as np
import pytest
from small import deep_model, refining_model, sam_ref_model, small_model, wavering
from videos import disk, moving_frames

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.video.array_archive import ArchiveError, ArrayArchive, save_archive
from sam2refiner_jax.video.made_with import check_same_model, model_facts
from sam2refiner_jax.video.policies import Motion, Quality, Tree
from sam2refiner_jax.video.saved_state import read_notes

HEIGHT, WIDTH, FRAMES, START = 90, 120, 10, 4
MASK, BOX = disk(START, HEIGHT, WIDTH), [20, 25, 60, 70]


@pytest.fixture(scope="module")
def frames():
    return moving_frames(FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def predictor():
    return SAM2VideoPredictor(wavering(refining_model()))


def begin(predictor, frames, **options):
    """Two objects, the second of which has another prompt later."""
    state = predictor.init_state(frames, **options)
    predictor.add_new_mask(state, START, 1, MASK)
    predictor.add_new_points_or_box(state, START, "square", box=BOX)
    predictor.add_new_points_or_box(state, START + 3, "square", points=[[70, 60], [20, 20]], labels=[1, 0])
    return state


def there_and_back(predictor, state):
    """Every step of a run forwards and backwards."""
    yield from predictor.propagate_in_video(state, start_frame_idx=START, return_scores=True)
    yield from predictor.propagate_in_video(state, start_frame_idx=START - 1, reverse=True, return_scores=True)


def go_on(predictor, state):
    """The steps that are left of it."""
    last, reverse = state.going_on.frame, state.going_on.reverse
    if not reverse and last < FRAMES - 1:
        yield from predictor.propagate_in_video(state, start_frame_idx=last + 1, return_scores=True)
    after = last - 1 if reverse else START - 1
    yield from predictor.propagate_in_video(state, start_frame_idx=after, reverse=True, return_scores=True)


def assert_same(found, expected):
    """Results of `propagate_in_video` with scores, bit for bit."""
    assert [(f[0], f[1]) for f in found] == [(e[0], e[1]) for e in expected]
    for one, other in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one[2:], other[2:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "memory",
    [
        "official",
        Tree(width=2),
        Motion(weight=0.5, stable_frames=2),
        Quality(interval=2, area_tolerance=0.5, box_ratio=1.1),
    ],
    ids=lambda m: m if isinstance(m, str) else m.kind,
)
def test_any_frame_can_be_the_last_before_a_save(memory, predictor, frames, tmp_path):
    """Saved and loaded between all frames of a run, forwards and backwards, with a refiner and results in a file."""
    predictor = SAM2VideoPredictor(predictor.model, memory=memory)
    expected = list(there_and_back(predictor, begin(predictor, frames, history=16)))
    assert len(expected) == FRAMES
    assert 0.01 < np.mean([e[2] > 0 for e in expected]) < 0.99
    state = begin(predictor, frames, history=16)
    for done, _ in enumerate(there_and_back(predictor, state), start=1):
        if done in (FRAMES, 1):  # nothing is left, or every object has a prompt there: no memories in use yet
            continue
        state.notes = {"done": done}
        path = tmp_path / f"{done}.npz"
        predictor.save_state(state, path)
        if done in (2, 6, 9):
            loaded = predictor.load_state(path, frames)
            assert loaded.notes == read_notes(path) == {"done": done}
            assert_same(list(go_on(predictor, loaded)), expected[done:])
    assert state.recent == 16
    with np.load(tmp_path / "3.npz", allow_pickle=False) as arrays:
        assert "header" in arrays


def test_results_prompts_and_memories_come_back(predictor, frames, tmp_path):
    """All that a state holds, also what lies in a file, and bfloat16."""
    state = begin(predictor, frames)
    list(there_and_back(predictor, state))
    predictor.add_new_points_or_box(state, 1, 1, points=[[40, 40]], labels=[1])  # a correction, not final yet
    for history in state.objects.values():
        history.store_old(state.file, 2)
    assert state.file.used
    predictor.save_state(state, tmp_path / "state.npz")
    loaded = predictor.load_state(tmp_path / "state.npz", frames)
    assert loaded.obj_ids == [1, "square"]
    assert loaded.file.used == state.file.used
    assert loaded.last_frame == state.last_frame == 0
    for obj_id, history in state.objects.items():
        again = loaded.objects[obj_id]
        assert (list(again.frames), again.in_memory) == (list(history.frames), history.in_memory)
        for frame, record in history.frames.items():
            for name in ("prompted", "tracked", "new_tracked"):
                one, other = getattr(record, name), getattr(again.frames[frame], name)
                assert (one is None) == (other is None)
                if one is not None:
                    assert other.memory is None or other.memory.dtype == "bfloat16"
                    for part in ("mask", "pointer", "memory", "refined", "object_score_logit", "predicted_iou"):
                        np.testing.assert_array_equal(getattr(other, part), getattr(one, part))
    following = [list(predictor.propagate_in_video(s, start_frame_idx=2, return_scores=True)) for s in (state, loaded)]
    assert_same(*following)


def test_clicks_go_on_from_those_before(frames, tmp_path):
    """What a refiner carries from click to click is in the file."""
    predictor = SAM2VideoPredictor(sam_ref_model())
    clicks = {"points": [[40, 40]], "labels": [1]}, {"points": [[60, 50]], "labels": [0], "clear_old_points": False}
    state = predictor.init_state(frames)
    predictor.add_new_points_or_box(state, 0, 1, **clicks[0])
    predictor.save_state(state, tmp_path / "state.npz")
    loaded, changed = (predictor.load_state(tmp_path / "state.npz", frames) for _ in range(2))
    turns, again = (s.objects[1].frames[0].conversation.turns for s in (state, loaded))
    assert [[len(a.labels) for a in turn.asked] for turn in again] == [[0], [1]]
    for one, other in zip(*(jax.tree.leaves([turn.carry for turn in each]) for each in (turns, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    conversation = changed.objects[1].frames[0].conversation
    conversation.turns = [dataclasses.replace(t, carry=jax.tree.map(np.negative, t.carry)) for t in conversation.turns]
    expected, found, other = (
        predictor.add_new_points_or_box(s, 0, 1, **clicks[1])[2] for s in (state, loaded, changed)
    )
    np.testing.assert_array_equal(found, expected)
    assert np.abs(other - expected).max() > 0


def test_what_does_not_belong_together_is_refused(frames, tmp_path):
    predictor = SAM2VideoPredictor(small_model())
    state = begin(predictor, frames)
    path = tmp_path / "state.npz"
    predictor.save_state(state, path)
    with pytest.raises(FileExistsError, match="exists already"):
        predictor.save_state(state, path)
    for other, message in (
        (SAM2VideoPredictor(wavering(small_model())), r"other settings: weights was '\w{8}' and is '\w{8}'"),
        (SAM2VideoPredictor(small_model(), memory="motion"), r"memory was 'Official\(\)' and is 'Motion\("),
        (SAM2VideoPredictor(small_model(), fill_hole_area=3), "fill_hole_area was 0 and is 3"),
        (SAM2VideoPredictor(small_model(), memory_dtype=np.float32), "memory_dtype was 'bfloat16' and is 'float32'"),
        (SAM2VideoPredictor(refining_model()), r"refiner was None and is \{'kind': 'sam2refiner'"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state(path, frames)
    for video, message in (
        (frames[:-1], "another video: num_frames was 10 and is 9"),
        ([f[:, :-2] for f in frames], "width was 120 and is 118"),
        ([255 - f for f in frames], r"pictures was \[\d+, \d+\] and is"),
        (iter(frames), "must be a stored clip"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.load_state(path, video)
    live = predictor.init_state(iter(frames))
    with pytest.raises(ValueError, match="an iterator gives, and they cannot be read again"):
        predictor.save_state(live, tmp_path / "live.npz")
    predictor.add_new_mask(state, 0, (1, 2), MASK)
    with pytest.raises(ValueError, match=r"obj_id must be text or a whole number.*got \(1, 2\)"):
        predictor.save_state(state, tmp_path / "tuple.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.npz"]


def test_damaged_files_are_named(frames, tmp_path):
    predictor = SAM2VideoPredictor(small_model())
    with pytest.raises(FileNotFoundError, match=r"none\.npz, which should be a saved state, does not exist"):
        predictor.load_state(tmp_path / "none.npz", frames)
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    save_archive(tmp_path / "exemplars.npz", {"format": "something else"}, [])
    predictor.save_state(begin(predictor, frames), tmp_path / "good.npz")
    content = bytearray((tmp_path / "good.npz").read_bytes())
    (tmp_path / "short.npz").write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile(tmp_path / "good.npz") as archive:
        place = archive.getinfo("0/4/new_prompted/mask.npy").header_offset
    content[place + 500] ^= 1
    (tmp_path / "flipped.npz").write_bytes(content)
    for name, message in (
        ("text", "is no saved state"),
        ("other", "is no saved state: it has no header"),
        ("exemplars", "must be a saved state of the form .* got 'something else'"),
        ("short", "is no saved state"),
        ("flipped", "is a damaged saved state: 0/4/new_prompted/mask cannot be read"),
    ):
        with pytest.raises(ArchiveError, match=rf"{name}\.npz {message}"):
            predictor.load_state(tmp_path / f"{name}.npz", frames)


def test_archives_keep_every_bit(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a/float": rng.normal(size=(3, 4)).astype(np.float32),
        "half": rng.normal(size=5).astype(np.float16),
        "brain": np.asarray(jax.numpy.asarray(rng.normal(size=(2, 3)), jax.numpy.bfloat16)),
        "nan": np.array([np.nan, -0.0, np.inf]),
        "none": np.zeros((0, 2), np.int32),
        "turned": np.arange(6).reshape(2, 3).T,
    }
    save_archive(tmp_path / "x.npz", {"said": [1, "two"]}, arrays.items())
    with ArrayArchive(tmp_path / "x.npz", "test") as archive:
        assert archive.header == {"said": [1, "two"]}
        for name, array in arrays.items():
            assert (archive[name].dtype, archive[name].shape) == (array.dtype, array.shape)
            assert archive[name].tobytes() == array.tobytes()
        assert archive.find("missing") is None
        with pytest.raises(ArchiveError, match=r"x\.npz is a damaged test: missing"):
            archive["missing"]
    assert not [p for p in tmp_path.iterdir() if p.name != "x.npz"]


def test_what_was_saved_before_a_field_was_there_is_read():
    """A model's configuration had its defaults then."""
    facts = json.loads(json.dumps(model_facts(deep_model(), np.dtype("float32"))))
    del facts["model"]["memory_layers"]
    check_same_model("earlier.npz", facts, model_facts(deep_model(), np.dtype("float32")))
    with pytest.raises(
        ValueError, match=r"earlier\.npz was made with .*model\.memory_layers was 4 and is 1; weights was"
    ):
        check_same_model("earlier.npz", facts, model_facts(small_model(), np.dtype("float32")))
    refining = model_facts(refining_model(), np.dtype("float32"))
    facts = json.loads(json.dumps(refining))
    del facts["refiner"]["click_radius"]
    check_same_model("earlier.npz", facts, refining)
    facts["refiner"]["retarget_heads"] = 3
    with pytest.raises(ValueError, match=r"settings: refiner\.retarget_heads was 3 and is \d$"):
        check_same_model("earlier.npz", facts, refining)
