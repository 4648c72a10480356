"""The pure tracking step: its bank, its two drivers, and batches of objects and of clips."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small import SMALL, small_model
from videos import disk, moving_frames

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.checkpoints import model_from_weights, weight_shapes, weights_of
from sam2refiner_jax.video.memory_bank import EMPTY, MemoryBank, ObjectFrames, Slots
from sam2refiner_jax.video.tracking import (
    encode_frames,
    encode_memory,
    segment_mask_prompt,
    track_clip,
    track_frame,
    upsample_masks,
)

SIZE, FRAMES = SMALL.image_size, 20
encode = jax.jit(encode_frames)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def clips():
    """Two clips of one length, at the model's input size: (frames, clips, s, s, 3)."""
    clips = [moving_frames(FRAMES, 90, 120, seed) for seed in (0, 1)]
    squeezed = [[np.asarray(Image.fromarray(f).resize((SIZE, SIZE))) for f in clip] for clip in clips]
    return np.stack(squeezed, axis=1)


def start(image, frame=1, *, reverse=False, num_frames=FRAMES):
    rows = len(image)
    return ObjectFrames(
        np.array(image, np.int32),
        np.full(rows, frame, np.int32),
        np.full(rows, num_frames, np.int32),
        np.full(rows, reverse),
    )


@jax.jit
def remember_masks(model, bank, features, image, masks, frame):
    """The bank after masks of all objects were given in a frame."""
    found = segment_mask_prompt(model, features, image, masks)
    memory = encode_memory(
        model, features, image, upsample_masks(model, found.masks), found.object_score_logits, prompted=True
    )
    everywhere = jnp.ones(len(image), bool)
    return MemoryBank(
        bank.prompted.write(frame, memory, everywhere),
        bank.prompted_pointers.write(frame, found.pointers, everywhere),
        bank.recent,
        bank.recent_pointers,
    )


def prompted_bank(model, first, image, offsets, prompted_slots=1, frame=0):
    """Disks, each somewhere else, given as masks in the first frame of each object's clip."""
    image = np.array(image, np.int32)
    masks = np.stack([np.roll(disk(0, SIZE, SIZE), offset, axis=1) for offset in offsets]).astype(np.float32)
    bank = MemoryBank.empty(model.config, len(image), prompted_slots=prompted_slots, dtype=jnp.float32)
    frames = np.full(len(image), frame, np.int32)
    return remember_masks(model, jax.device_put(bank), encode(model, first), image, masks, frames)


def track_frames(model, bank, clips, where, active):
    """The driver for live frames, over a stored clip."""
    results = []
    for images in clips:
        bank, tracked = track_frame(model, bank, encode(model, images), where, active)
        results.append(jax.device_get(tracked))
        where = where.next()
    return bank, jax.tree.map(lambda *x: np.stack(x), *results)


def assert_close(a, b, tolerance=2e-5):
    a, b = jax.device_get((a, b))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(1.0, np.abs(y).max()), rtol=0)


def test_slots_are_overwritten_oldest_first():
    slots = jax.tree.map(jnp.asarray, Slots.empty(2, 3, (1,), jnp.float32))
    everywhere = jnp.ones(2, bool)
    for frame in range(5):
        slots = slots.write(jnp.full(2, frame), jnp.full((2, 1), float(frame)), everywhere)
    assert sorted(slots.frames[0].tolist()) == [2, 3, 4]
    same = slots.write(jnp.full(2, 5), jnp.full((2, 1), 5.0), jnp.array([True, False]))
    assert sorted(same.frames[0].tolist()) == [3, 4, 5]
    assert same.frames[1].tolist() == slots.frames[1].tolist()
    np.testing.assert_array_equal(same.values[..., 0], same.frames)


def test_reach_of_memories(model):
    """Which slots a frame attends to: six tracked frames and fifteen pointers back, no pointer of a frame to come."""
    bank = MemoryBank.empty(model.config, 1, prompted_slots=2)
    bank.prompted.frames[0] = bank.prompted_pointers.frames[0] = [0, 40]
    bank.recent.frames[0] = range(15, 21)
    bank.recent_pointers.frames[0] = range(6, 21)

    def exist(frame, num_frames=100, reverse=False):
        memory = bank.recall(model, start([0], frame, num_frames=num_frames, reverse=reverse))
        return memory.maps_exist[0].astype(int).tolist(), memory.pointers_exist[0, ::4].astype(int).tolist()

    assert exist(21) == ([1, 1] + [1] * 6, [1, 0] + [1] * 15)
    assert exist(22) == ([1, 1] + [0] + [1] * 5, [1, 0] + [0] + [1] * 14)
    assert exist(60)[1] == [1, 1] + [0] * 15
    assert exist(5, reverse=True) == ([1, 1] + [0] * 6, [0, 1] + [1] * 15)
    bank.prompted_pointers.frames[0, 1] = EMPTY  # frame 40 of a clip of 5 would be an exemplar
    assert exist(21, num_frames=5)[1] == [1, 0] + [0] * 11 + [1] * 4
    assert EMPTY < -(2**20)


# Most tests track these three, two of them in one clip, so that one compiled step serves them all.
IMAGE, OFFSETS = [0, 1, 1], [0, 20, 40]


def test_scan_equals_frame_by_frame(model, clips):
    frames, active = clips[1:13], np.ones((12, 3), bool)
    active[6] = [True, False, True]
    bank = prompted_bank(model, clips[0], IMAGE, OFFSETS)
    bank, scanned = track_clip(model, bank, frames, start(IMAGE), active, with_memory=True)
    step_bank, where, results = prompted_bank(model, clips[0], IMAGE, OFFSETS), start(IMAGE), []
    for images, is_active in zip(frames, active, strict=True):
        step_bank, tracked = track_frame(model, step_bank, encode(model, images), where, is_active)
        results.append(jax.device_get(tracked))
        where = where.next()
    stacked = jax.tree.map(lambda *x: np.stack(x), *results)
    assert_close(scanned, stacked)
    assert_close(bank, step_bank)
    assert ((scanned.segmentation.masks > 0) == (stacked.segmentation.masks > 0)).mean() >= 0.999


@pytest.mark.slow
def test_a_scan_goes_on_from_its_bank(model, clips):
    active = np.ones((12, 3), bool)
    bank = prompted_bank(model, clips[0], IMAGE, OFFSETS)
    _, whole = track_clip(model, bank, clips[1:13], start(IMAGE), active, with_memory=True)
    bank, parts = prompted_bank(model, clips[0], IMAGE, OFFSETS), []
    for first in (1, 7):
        bank, part = track_clip(model, bank, clips[first : first + 6], start(IMAGE, first), active[:6])
        parts.append(part)
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    assert joined.memory is None  # unless asked for
    assert_close(joined.segmentation, whole.segmentation)


def test_objects_of_a_batch_do_not_see_each_other(model, clips):
    """Two clips and three objects in one batch give what each gives alone, whatever pads the batch."""
    batch = prompted_bank(model, clips[0], IMAGE, OFFSETS)
    _, together = track_frames(model, batch, clips[1:8], start(IMAGE), np.ones(3, bool))
    for row, (clip, offset) in enumerate(zip(IMAGE, OFFSETS, strict=True)):
        bank = prompted_bank(model, clips[0, clip : clip + 1], [0], [offset], prompted_slots=4)
        _, alone = track_frames(model, bank, clips[1:8, clip : clip + 1], start([0]), np.ones(1, bool))
        assert_close(jax.tree.map(lambda x, row=row: x[:, row : row + 1], together), alone)


def test_objects_may_be_on_different_frames(model, clips):
    """One row goes forwards from frame 0, the others backwards from frame 9, in one batch."""
    forwards = prompted_bank(model, clips[0], IMAGE, OFFSETS)
    backwards = prompted_bank(model, clips[9], IMAGE, OFFSETS, frame=9)
    reverse = np.array([False, True, True])
    first = np.where(reverse, 8, 1).astype(np.int32)
    both = jax.tree.map(lambda a, b: jnp.where(reverse.reshape(-1, *[1] * (a.ndim - 1)), b, a), forwards, backwards)
    where = ObjectFrames(np.int32(IMAGE), first, np.full(3, FRAMES, np.int32), reverse)
    images = np.stack([clips[1:9, 0], clips[8:0:-1, 1]], axis=1)
    _, together = track_frames(model, both, images, where, np.ones(3, bool))
    for row, offset in enumerate(OFFSETS[:2]):
        frame = (0, 9)[row]
        bank = prompted_bank(model, clips[frame, row : row + 1], [0], [offset], prompted_slots=4, frame=frame)
        alone = start([0], first[row], reverse=bool(row))
        _, expected = track_frames(model, bank, images[:, row : row + 1], alone, np.ones(1, bool))
        assert_close(jax.tree.map(lambda x, row=row: x[:, row : row + 1], together), expected)


def test_inactive_objects_keep_their_memories(model, clips):
    bank = prompted_bank(model, clips[0], IMAGE, OFFSETS)
    after, _ = track_frame(model, bank, encode(model, clips[1]), start(IMAGE), np.array([True, False, True]))
    assert (after.recent.frames == 1).sum(axis=1).tolist() == [1, 0, 1]
    assert (after.recent.frames[1] == EMPTY).all()


def test_a_frame_compiles_once(model, clips):
    active = np.ones(3, bool)
    bank = prompted_bank(model, clips[0], IMAGE, OFFSETS)
    bank, _ = track_frames(model, bank, clips[1:2], start(IMAGE), active)
    compiled = track_frame._cache_size(), encode._cache_size()
    for frame, length, reverse in ((7, 9, False), (400, 5000, True)):
        where = start(IMAGE, frame, num_frames=length, reverse=reverse)
        bank, _ = track_frames(model, bank, clips[2:4], where, active)
    assert (track_frame._cache_size(), encode._cache_size()) == compiled


@pytest.mark.parametrize("name", ["sam2.1", pytest.param("sam2", marks=pytest.mark.slow)])
def test_bfloat16_stays_close(model, name):
    """A model that computes in bfloat16 tracks, and its masks are nearly those of float32."""
    frames = moving_frames(5, 90, 120)
    weights, config = weights_of(model), SMALL
    if name == "sam2":
        config = dataclasses.replace(SMALL, no_obj_embed_spatial=False, obj_ptr_temporal_encoding=False)
        weights = {path: weights[path] for path in weight_shapes(config)}
    masks = []
    for dtype in (jnp.float32, jnp.bfloat16):
        predictor = SAM2VideoPredictor(model_from_weights(config, weights, dtype=dtype))
        state = predictor.init_state(frames)
        predictor.add_new_mask(state, 0, 1, disk(0, 90, 120))
        masks.append(np.stack([m for _, _, m in predictor.propagate_in_video(state)]) > 0)
    assert (masks[0] == masks[1]).mean() > 0.9
