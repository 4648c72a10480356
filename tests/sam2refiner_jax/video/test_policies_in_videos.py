"""Memory policies in whole models: both drivers, batches, paths that are followed one by one, and going on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_rules import TreeRules
from PIL import Image
from small import SMALL, deep_model, refining_model, small_model, wavering
from videos import disk, moving_frames

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.image.prompts import pack_prompts, read_prompts
from sam2refiner_jax.video.memory_bank import EMPTY, MemoryBank, ObjectFrames
from sam2refiner_jax.video.policies import Choice, MemoryPolicy, Motion, Official, Quality, Remembered, Tree
from sam2refiner_jax.video.tracking import encode_frames, track_clip, track_frame

HEIGHT, WIDTH, SIZE, FRAMES = 90, 120, SMALL.image_size, 12
BOX, MASK = np.float32([20, 25, 60, 70]), disk(0, HEIGHT, WIDTH)
encode = jax.jit(encode_frames)

# With thresholds that bear on the masks of random weights, which are all over the image, and on short clips.
QUALITY = Quality(interval=2, area_tolerance=0.5, box_ratio=1.1)
MOTION = Motion(weight=0.5, stable_frames=2)
STORED = moving_frames(8, HEIGHT, WIDTH)
POLICIES = [
    *(pytest.param(policy, id=policy.kind, marks=pytest.mark.slow) for policy in (QUALITY, Tree())),
    pytest.param(MOTION, id=MOTION.kind),
]
KINDS = [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("quality", "motion")), "tree"]


@pytest.fixture(scope="module")
def frames():
    return moving_frames(FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def model():
    return wavering(deep_model())


@pytest.fixture(scope="module")
def images(frames):
    """The clip as the model reads it."""
    return np.stack([np.asarray(Image.fromarray(f).resize((SIZE, SIZE))) for f in frames])[:, None]


def start_of(model, policy):
    """A bank of two objects that remember noise of frame 0, where they are looked for next, and their first prompts."""
    rows = np.ones(2, np.int32)
    where = ObjectFrames(0 * rows, rows, FRAMES * rows, np.zeros(2, bool))
    bank, rng = MemoryBank.empty(model.config, 2, dtype=np.float32, policy=policy), np.random.default_rng(0)
    for slots in (bank.prompted, bank.prompted_pointers):
        slots.frames[:] = 0
        values = rng.normal(size=(2, *slots.values.shape[1:]))
        slots.values[:] = np.repeat(values, policy.paths, axis=0)
    bank.prompts.boxes[:] = (6, 7, 8, 5)
    bank.prompts.object_score_logits[:] = 0.5
    prompts = [read_prompts(None, None, box, None, photo_size=(90, 120), image_size=SIZE) for box in (BOX, BOX + 20)]
    return jax.device_put(bank), where, jax.device_put(pack_prompts(prompts, SIZE // 4))


def assert_close(a, b, tolerance=1e-4):
    for x, y in zip(*map(jax.tree.leaves, jax.device_get((a, b))), strict=True):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        infinite = ~np.isfinite(y)
        np.testing.assert_array_equal(x[infinite], y[infinite])
        np.testing.assert_allclose(x[~infinite], y[~infinite], atol=tolerance * max(1.0, np.abs(y[~infinite]).max()))


@pytest.mark.parametrize("policy", POLICIES)
def test_scan_equals_frame_by_frame(policy, images):
    """With a refiner, two objects, and one of them not active for a while."""
    model, active = wavering(refining_model()), np.ones((FRAMES - 1, 2), bool)
    active[4:6, 1] = False
    bank, where, origins = start_of(model, policy)
    whole_bank, scanned = track_clip(model, bank, images[1:], where, active, origins, with_memory=True)
    bank, where, origins = start_of(model, policy)
    results, banks = [], []
    for image, is_active in zip(images[1:], active, strict=True):
        bank, tracked = track_frame(model, bank, encode(model, image), where, is_active, origins)
        results.append(jax.device_get(tracked))
        banks.append(jax.device_get(bank))
        where = where.next()
    assert scanned.segmentation.masks.shape == (FRAMES - 1, 2, SIZE // 4, SIZE // 4)
    assert scanned.segmentation.refined.shape == (FRAMES - 1, 2, SIZE, SIZE)
    assert_close(scanned, jax.tree.map(lambda *x: np.stack(x), *results))
    assert_close(whole_bank, bank)
    paths = policy.paths
    for x, y in zip(jax.tree.leaves(banks[3]), jax.tree.leaves(banks[5]), strict=True):
        np.testing.assert_array_equal(x[paths:], y[paths:])  # of the second object, nothing changed
    kept = set(bank.recent.frames[0].tolist())
    assert kept != {EMPTY}
    if policy is QUALITY:
        assert (bank.recent.frames[0, 3:] != EMPTY).any()
        assert {5, 6} & set(bank.recent.frames[1].tolist()) == set()
    elif policy is MOTION:
        assert bank.state.stable[0] >= 2
    else:
        assert len(np.unique(bank.recent.values[:3].reshape(3, -1), axis=0)) == 3  # the paths are not of one mind


@pytest.mark.slow
def test_what_policies_have_in_common_with_official(images):
    """Without their thresholds, and with one path, they are SAM 2."""
    model = small_model()
    bank, where, _ = start_of(model, Official())
    _, expected = track_clip(model, bank, images[1:], where, np.ones((FRAMES - 1, 2), bool))
    motion = Motion(weight=0.0, mask_threshold=-1.0, object_threshold=-1e9, motion_threshold=-1.0)
    for policy in (motion, Tree(width=1, iou_threshold=-1.0, low=1.0, high=1.0)):
        bank, where, _ = start_of(model, policy)
        _, found = track_clip(model, bank, images[1:], where, np.ones((FRAMES - 1, 2), bool))
        assert (expected.segmentation.object_score_logits > 0).all()
        assert_close(found.segmentation, expected.segmentation)


@dataclasses.dataclass(frozen=True)
class OnePath(MemoryPolicy):
    """A path of the tree on its own, whose mask is given from outside, and which tells what it found."""

    def initial_state(self, config, rows):
        tree = Tree(width=1).initial_state(config, rows)
        return {"tree": tree, "mask": np.zeros(rows, np.int32), "ious": np.zeros((rows, 3), np.float32)}

    def recall(self, now):
        return Tree(width=1).recall(dataclasses.replace(now, state=now.state["tree"]))

    def choose(self, now, candidates):
        return Choice(now.state["mask"])

    def remember(self, now, found):
        remembered = Tree(width=1).remember(dataclasses.replace(now, state=now.state["tree"]), found)
        state = {**now.state, "tree": remembered.state, "ious": found.candidates.ious}
        return Remembered(remembered.slots, state)


def test_the_tree_is_three_trackers_of_which_the_best_go_on(model, images):
    """Each path as a tracker of its own, copied and continued by the rules in NumPy, gives the tree's masks."""
    active = np.ones(2, bool)
    features = [encode(model, image) for image in images]
    bank, where, _ = start_of(model, Tree())
    _, expected = track_clip(model, bank, images[1:], where, np.ones((FRAMES - 1, 2), bool))

    def step(bank, time, where, masks):
        """Both objects' next frame with these masks; the bank that is given stays."""
        state = {**bank.state, "mask": jnp.asarray(masks, jnp.int32)}
        bank = jax.tree.map(jnp.copy, dataclasses.replace(bank, state=state))
        bank, tracked = track_frame(model, bank, features[time], where, active)
        return bank, tracked.segmentation

    bank, where, _ = start_of(model, OnePath())
    rules = [TreeRules({0: (None, 0.5)}) for _ in range(2)]
    banks, switched = [bank], 0
    for time in range(1, FRAMES):
        tried = [[step(bank, time, where, [k, k]) for k in range(3)] for bank in banks]
        chosen = []
        for row, rule in enumerate(rules):
            ious = [np.asarray(path[0][0].state["ious"][row]) for path in tried]
            scores = [float(path[0][1].object_score_logits[row]) for path in tried]
            chosen.append(rule.step(time, np.arange(9).reshape(3, 3), ious, scores))
            p, k = chosen[-1][0]
            switched += p != 0
            for name in ("masks", "pointers", "object_score_logits"):
                found = getattr(tried[p][k][1], name)[row]
                assert_close(found, getattr(expected.segmentation, name)[time - 1, row])
        banks = [
            jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), *(tried[p][k][0] for p, k in new))
            for new in zip(*chosen, strict=True)
        ]
        where = where.next()
    assert switched > 0


@pytest.fixture(scope="module")
def predictors(model):
    return {policy.kind: SAM2VideoPredictor(model, memory=policy) for policy in (QUALITY, MOTION, Tree())}


def with_two_objects(predictor, source, **options):
    """Objects that start in different frames, one of them with a second prompt in the middle."""
    state = predictor.init_state(source, **options)
    predictor.add_new_mask(state, 0, 1, MASK)
    predictor.add_new_points_or_box(state, 3, 2, box=BOX)
    predictor.add_new_mask(state, 7, 2, MASK)
    return state


def masks_of(results):
    return {frame: masks for frame, _, masks in results}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tracking_goes_on_where_it_was(predictors, frames, kind):
    """Stopped and started again, it gives what it gives at once; put together anew, the tree has its best path."""
    predictor = predictors[kind]
    whole = masks_of(predictor.propagate_in_video(with_two_objects(predictor, frames)))
    state = with_two_objects(predictor, frames)
    parts = masks_of(predictor.propagate_in_video(state, max_frame_num_to_track=5))
    parts |= masks_of(predictor.propagate_in_video(state, start_frame_idx=6, max_frame_num_to_track=1))  # 7 is a prompt
    parts |= masks_of(predictor.propagate_in_video(state, start_frame_idx=8))
    assert sorted(parts) == sorted(whole) == list(range(FRAMES))
    for frame in range(FRAMES):
        np.testing.assert_array_equal(parts[frame], whole[frame])
    assert not (whole[5][0] == whole[5][1]).all()
    bank = predictor._bank(list(state.objects.values()), FRAMES, False)
    for row, history in enumerate(state.objects.values()):
        snapshot = history.tracked[FRAMES - 1].snapshot
        first = row * predictor.memory.paths
        np.testing.assert_array_equal(bank.recent.frames[first], snapshot.recent)
        for slot, frame in enumerate(snapshot.recent):
            if frame != EMPTY:
                np.testing.assert_array_equal(bank.recent.values[first, slot], history.tracked[int(frame)].memory)
        for leaf, value in zip(jax.tree.leaves(bank.state), snapshot.state, strict=True):
            np.testing.assert_array_equal(leaf[first], value)
        np.testing.assert_array_equal(bank.prompts.boxes[first, :1, 2:] > 0, True)
    if kind == "tree":
        assert np.isneginf(bank.state.score).tolist() == [False, True, True] * 2
        assert (bank.recent.frames[1] == EMPTY).all()


@pytest.mark.parametrize("kind", KINDS)
def test_corrections_and_other_directions(predictors, frames, kind):
    predictor = predictors[kind]
    state = with_two_objects(predictor, frames)
    before = masks_of(predictor.propagate_in_video(state))
    # A mask or a click on a tracked frame: what follows remembers it, if the object is there.
    predictor.add_new_mask(state, 5, 1, MASK)
    predictor.add_new_points_or_box(state, 9, 2, points=[[70, 60], [20, 20]], labels=[1, 0])
    after = masks_of(predictor.propagate_in_video(state, start_frame_idx=6, max_frame_num_to_track=2))
    corrected = state.objects[1].tracked[5]
    assert 5 in corrected.snapshot.frames
    clicked = state.objects[2].tracked[9]
    assert (9 in clicked.snapshot.frames) == (clicked.object_score_logit > 0)
    bank = predictor._bank([state.objects[1]], 6, False)
    slot = corrected.snapshot.recent.tolist().index(5)
    np.testing.assert_array_equal(bank.recent.values[0, slot], corrected.memory)
    assert np.abs(after[6][0] - before[6][0]).max() > 0
    np.testing.assert_array_equal(after[6][1], before[6][1])  # of the other object, nothing was corrected before
    # Backwards from a frame that was tracked forwards: from the prompts alone. From there on, as forwards.
    histories = list(state.objects.values())
    assert (predictor._bank(histories, 4, True).recent.frames == EMPTY).all()
    backwards = masks_of(predictor.propagate_in_video(state, start_frame_idx=6, reverse=True, max_frame_num_to_track=3))
    assert sorted(backwards) == [3, 4, 5, 6]
    assert (predictor._bank(histories, 2, True).recent.frames != EMPTY).any()
    # Without an object, the other goes on alone.
    predictor.remove_object(state, 1)
    (alone,) = masks_of(predictor.propagate_in_video(state, start_frame_idx=10, max_frame_num_to_track=0)).values()
    assert alone.shape == (1, 1, HEIGHT, WIDTH)


def test_forgetting_around_prompts_starts_again(predictors, frames, monkeypatch):
    """What was tracked near a prompt is forgotten, and with it what the policy knew."""
    predictor = predictors["motion"]
    monkeypatch.setattr(predictor, "clear_non_cond_mem_around_input", True)
    state = with_two_objects(predictor, frames)
    seen = {}
    for frame, _, _ in predictor.propagate_in_video(state):
        tracked = state.objects[2].tracked.get(frame)
        seen[frame] = None if tracked is None else tracked.snapshot.frames
    assert seen[6] != set()
    assert seen[7] is None
    assert seen[8] <= {8}
    assert state.objects[1].tracked[8].snapshot.frames > {8}  # the other object has no prompt there


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_bounded_history_changes_no_mask(predictors, kind):
    """Frames that are remembered longer than the history reaches stay, so that a stream can be stopped, too."""
    predictor, count = predictors[kind], 40
    source = [STORED[i % len(STORED)] for i in range(count)]
    whole = masks_of(predictor.propagate_in_video(with_two_objects(predictor, source)))
    state = with_two_objects(predictor, source, history=16)
    for frame, _, masks in predictor.propagate_in_video(state):
        np.testing.assert_array_equal(masks, whole[frame])
    assert all(len(history.tracked) <= 16 + 2 * 15 + 6 for history in state.objects.values())
    if kind == "tree":
        return
    state, ahead = predictor.init_state(iter(source)), {}
    predictor.add_new_mask(state, 0, 1, MASK)
    ahead |= masks_of(predictor.propagate_in_video(state, max_frame_num_to_track=2))
    predictor.add_new_points_or_box(state, 2, 2, box=BOX)
    for _ in range(4):  # eight frames at a time
        ahead |= masks_of(predictor.propagate_in_video(state, max_frame_num_to_track=7))
    at_once = predictor.init_state(source)
    predictor.add_new_mask(at_once, 0, 1, MASK)
    list(predictor.propagate_in_video(at_once, max_frame_num_to_track=2))
    predictor.add_new_points_or_box(at_once, 2, 2, box=BOX)
    for frame, _, masks in predictor.propagate_in_video(at_once, start_frame_idx=3, max_frame_num_to_track=31):
        np.testing.assert_array_equal(masks, ahead[frame])
