"""The refiner in videos: off, it leaves no trace; on, both drivers agree and nothing grows."""

import jax
import numpy as np
import pytest
from PIL import Image
from small import SMALL, fresh_refining_model, refining_model, small_model
from videos import disk, held, moving_frames

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.image.prompts import pack_prompts, read_prompts
from sam2refiner_jax.video import predictor as video_predictor
from sam2refiner_jax.video.memory_bank import MemoryBank, ObjectFrames
from sam2refiner_jax.video.tracking import encode_frames, track_clip, track_frame

SIZE, FRAMES = SMALL.image_size, 8
BOX = np.float32([20, 25, 60, 70])
encode = jax.jit(encode_frames)


@pytest.fixture(scope="module")
def model():
    return refining_model()


@pytest.fixture(scope="module")
def clip():
    return moving_frames(FRAMES, 90, 120)


def tracked(predictor, clip):
    state = predictor.init_state(clip)
    first = predictor.add_new_points_or_box(state, 0, 1, box=BOX)[2]
    predictor.add_new_points_or_box(state, 0, 2, points=[[80, 40]], labels=[1])
    return state, [first[:1], *(masks for _, _, masks in predictor.propagate_in_video(state))]


def test_off_is_plain_tracking_bit_for_bit(model, clip):
    state, masks = tracked(SAM2VideoPredictor(model, refine=False), clip)
    plain_state, plain = tracked(SAM2VideoPredictor(small_model()), clip)
    for a, b in zip(masks, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(state.objects.values(), plain_state.objects.values(), strict=True):
        for frame in a.tracked:
            assert a.tracked[frame].refined is None
            np.testing.assert_array_equal(a.tracked[frame].memory, b.tracked[frame].memory)
            np.testing.assert_array_equal(a.tracked[frame].pointer, b.tracked[frame].pointer)
    with pytest.raises(ValueError, match="refine must be False for a model without a refiner"):
        SAM2VideoPredictor(model.with_refiner(None), refine=True)


def test_refined_masks_are_what_memories_are_made_of(model, clip):
    """A fresh refiner, which adds nothing to the coarse mask, changes nothing; another changes masks and memories."""
    runs = {
        "plain": tracked(SAM2VideoPredictor(model, refine=False), clip),
        "fresh": tracked(SAM2VideoPredictor(fresh_refining_model()), clip),
        "refined": tracked(SAM2VideoPredictor(model), clip),
    }
    memories = {name: state.objects[1].tracked[1].memory.astype(np.float32) for name, (state, _) in runs.items()}
    scale = np.abs(memories["plain"]).max()
    assert np.abs(memories["fresh"] - memories["plain"]).max() < 0.02 * scale  # bfloat16, and pixels at zero
    assert np.abs(memories["refined"] - memories["plain"]).max() > 0.05 * scale
    assert runs["refined"][0].objects[1].tracked[1].refined.shape == (SIZE, SIZE)
    assert runs["refined"][1][3].shape == (2, 1, 90, 120)


def prompted(model, boxes):
    """A bank of two objects that remember noise, where they are looked for next, and their first prompts."""
    rows = np.ones(2, np.int32)
    where = ObjectFrames(0 * rows, rows, FRAMES * rows, np.zeros(2, bool))
    bank = MemoryBank.empty(model.config, 2)
    rng = np.random.default_rng(0)
    bank.prompted.frames[:] = bank.prompted_pointers.frames[:] = 0
    bank.prompted.values[:] = rng.normal(size=bank.prompted.values.shape)
    bank.prompted_pointers.values[:] = rng.normal(size=bank.prompted_pointers.values.shape)
    prompts = [read_prompts(None, None, box, None, photo_size=(90, 120), image_size=SIZE) for box in boxes]
    return jax.device_put(bank), where, jax.device_put(pack_prompts(prompts, SIZE // 4))


@pytest.fixture(scope="module")
def images(clip):
    """The clip as the model reads it."""
    return np.stack([np.asarray(Image.fromarray(f).resize((SIZE, SIZE))) for f in clip])[:, None]


def test_scan_equals_frame_by_frame(model, images):
    active = np.ones((FRAMES - 1, 2), bool)
    bank, where, origins = prompted(model, [BOX, BOX + 20])
    _, scanned = track_clip(model, bank, images[1:], where, active, origins)
    bank, where, origins = prompted(model, [BOX, BOX + 20])
    for i, image in enumerate(images[1:]):
        bank, step = track_frame(model, bank, encode(model, image), where, active[i], origins)
        expected = np.asarray(step.segmentation.refined)
        np.testing.assert_allclose(
            scanned.segmentation.refined[i], expected, atol=1e-5 * max(1, np.abs(expected).max())
        )
        where = where.next()


def test_first_prompt_is_reused(model, clip, images):
    """With `reuse_first_prompt` later frames depend on where the first click was, beyond what the memory holds."""
    results = []
    for boxes in ([BOX, BOX], [BOX, BOX + 20]):
        bank, where, origins = prompted(model, boxes)
        _, step = track_frame(model, bank, encode(model, images[1]), where, np.ones(2, bool), origins)
        results.append(step.segmentation)
    np.testing.assert_array_equal(results[0].masks, results[1].masks)
    np.testing.assert_array_equal(results[0].refined[0], results[1].refined[0])
    assert np.abs(results[0].refined[1] - results[1].refined[1]).max() > 1e-4
    predictor = SAM2VideoPredictor(model)
    state, _ = tracked(predictor, clip)
    origins = predictor._origins(list(state.objects.values()), 2, False)
    assert origins.labels[0, :2].tolist() == [2, 3]
    np.testing.assert_allclose(origins.points[0, 0], BOX[:2] / [120, 90] * SIZE, rtol=1e-5)
    assert origins.labels[1, 0] == 1


def test_given_masks_and_corrections(model, clip):
    predictor = SAM2VideoPredictor(model)
    state = predictor.init_state(clip)
    mask = disk(0, 90, 120)
    shown = predictor.add_new_mask(state, 0, 1, mask)[2]
    assert ((shown[0, 0] > 0) == mask).mean() > 0.97
    predictor.add_new_mask(state, 0, 2, mask[::-1])
    list(predictor.propagate_in_video(state, max_frame_num_to_track=4))
    corrected = predictor.add_new_points_or_box(state, 3, 1, points=[[30, 45]], labels=[1])[2]
    assert corrected.shape == (2, 1, 90, 120)
    assert len(list(predictor.propagate_in_video(state, start_frame_idx=4))) == 4


@pytest.mark.slow
def test_nothing_grows(model):
    """Over a live iterator: no compilation after the first frames, and the same device buffers at frame 20 and 40."""
    stored = moving_frames(4, 90, 120)
    predictor = SAM2VideoPredictor(model)
    state = predictor.init_state(stored[i % 4] for i in range(42))
    predictor.add_new_points_or_box(state, 0, 1, box=BOX)
    predictor.add_new_points_or_box(state, 0, 2, box=BOX + 20)
    compiled, seen = (track_frame, video_predictor._encode_frames, video_predictor._encode_prompted), {}
    for frame, _, _ in predictor.propagate_in_video(state):
        if frame in (20, 40):
            seen[frame] = *held(state), *(function._cache_size() for function in compiled)
    assert seen[20] == seen[40]
    assert len(state.objects[1].tracked) == 16
