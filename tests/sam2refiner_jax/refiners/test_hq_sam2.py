"""HQ-SAM 2 against PyTorch: the release's six ways to choose masks, videos, and nothing of it where it is off."""

import copy
import dataclasses

import numpy as np
import pytest
from hq_sam2 import make_hq, with_refiner_of
from official import build_official, official_image_predictor, ours_of_few_blocks, randomise, relative_error
from videos import SideBySide, moving_frames, official_and_ours_video, write_jpegs

from sam2refiner_jax import HQSAM2Config, SAM2ImagePredictor, SAM2VideoPredictor
from sam2refiner_jax.checkpoints import describe_refiner
from sam2refiner_jax.config import get_config
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.predictor import refine_prompts

NAME, SIZE = "sam2.1_hiera_t", 256


@pytest.fixture(scope="module")
def pair():
    official = make_hq(randomise(build_official(NAME, few_blocks=True, image_size=SIZE)))
    return official, with_refiner_of(official, ours_of_few_blocks(official, NAME, SIZE))


@pytest.fixture(scope="module")
def photo(photo):
    return np.ascontiguousarray(photo[::3, ::3])


@pytest.fixture(scope="module")
def predictors(pair, photo):
    theirs = official_image_predictor(pair[0])
    theirs._bb_feat_sizes = [(SIZE // stride,) * 2 for stride in (4, 8, 16)]
    ours = SAM2ImagePredictor(pair[1])
    for predictor in (theirs, ours):
        predictor.set_image(photo)
    return theirs, ours


def prompts_of(photo, box=False):
    size = np.array([photo.shape[1], photo.shape[0]])
    if box:
        return {"box": np.array([0.2, 0.3, 0.7, 0.8]) * np.tile(size, 2)}
    return {"point_coords": np.array([[0.3, 0.4], [0.6, 0.5]]) * size, "point_labels": [1, 0]}


def assert_equal_masks(ours, reference):
    for got, expected in zip(ours, reference, strict=True):
        assert relative_error(got, expected) <= 1e-5
    assert ((ours[0] > 0) == (reference[0] > 0)).mean() >= 0.9999


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("multimask", [True, False])
def test_masks_equal_pytorch(predictors, photo, multimask, box):
    prompts = {**prompts_of(photo, box), "multimask_output": multimask, "return_logits": True}
    reference, ours = (predictor.predict(**prompts) for predictor in predictors)
    assert_equal_masks(ours, reference)
    assert len(ours[0]) == (3 if multimask else 1)
    # The summed logits are what a next prompt is given.
    again = {**prompts, "mask_input": reference[2][:1]}
    assert_equal_masks(*(predictor.predict(**again) for predictor in reversed(predictors)))


def assert_single_mask_equals(pair, predictors, photo, **config):
    """The single mask, of our model with another configuration."""
    model = pair[1].with_refiner(pair[1].refiner)
    model.config = dataclasses.replace(model.config, **config)
    ours = SAM2ImagePredictor(model)
    ours.set_image(photo)
    prompts = {**prompts_of(photo), "multimask_output": False, "return_logits": True}
    assert_equal_masks(ours.predict(**prompts), predictors[0].predict(**prompts))


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_the_kept_mask_is_chosen_by_sams_own_stability(pair, predictors, photo, threshold, monkeypatch):
    """A stable mask 0, and one that another stands in for."""
    monkeypatch.setattr(pair[0].sam_mask_decoder, "dynamic_multimask_stability_thresh", threshold)
    assert_single_mask_equals(pair, predictors, photo, dynamic_multimask_stability_thresh=threshold)


def test_masks_as_in_training_equal_pytorch(pair, predictors, photo, monkeypatch):
    """The single mask as it is, however unstable."""
    monkeypatch.setattr(pair[0].sam_mask_decoder, "training", True)
    assert_single_mask_equals(pair, predictors, photo, dynamic_multimask_via_stability=False)


@pytest.mark.parametrize("multimask", [True, False])
def test_the_hq_mask_alone_equals_pytorch(pair, predictors, photo, multimask, monkeypatch):
    """One mask with one predicted IoU, that of SAM's mask which would be kept; the release gives three with it."""
    monkeypatch.setattr(pair[0].sam_mask_decoder, "hq_token_only", True)
    ours = SAM2ImagePredictor(with_refiner_of(pair[0], pair[1], HQSAM2Config(hq_only=True)))
    ours.set_image(photo)
    prompts = {**prompts_of(photo), "multimask_output": multimask, "return_logits": True}
    masks, iou, low_res = predictors[0].predict(**prompts)
    assert_equal_masks(ours.predict(**prompts), (masks, iou.max(keepdims=True), low_res))


def test_off_is_sam2_to_the_bit(pair, photo):
    plain, refining = (SAM2ImagePredictor(model) for model in (pair[1].with_refiner(None), pair[1]))
    for predictor in (plain, refining):
        predictor.set_image(photo)
    prompts = {**prompts_of(photo), "return_logits": True}
    for got, expected in zip(refining.predict(**prompts, refine=False), plain.predict(**prompts), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_prompts_compile_once(predictors, photo):
    predictors[1].predict(**prompts_of(photo))
    compiled = encode_photos._cache_size(), refine_prompts._cache_size()
    for clicks in (1, 3, 8):
        coords = np.full((clicks, 2), 50.0)
        predictors[1].predict(coords, np.ones(clicks), multimask_output=clicks > 1)
    assert (encode_photos._cache_size(), refine_prompts._cache_size()) == compiled


@pytest.mark.slow
def test_20_frames_equal_pytorch(tmp_path):
    """A click, a correction and a mask: the summed logits are shown, remembered and given back."""
    official, ours = official_and_ours_video(NAME, 128, exact_memories=True, few_blocks=True)
    official = copy.deepcopy(official)  # others share it
    make_hq(official)
    ours = SAM2VideoPredictor(with_refiner_of(official, ours.model), memory_dtype=np.float32)
    both = SideBySide(official, ours, write_jpegs(tmp_path / "clip", moving_frames(20, 120, 180)))
    both.call("add_new_points_or_box", 0, 1, points=np.array([[45.0, 60.0]]), labels=np.array([1], np.int32))
    both.propagate()
    correction = {"points": np.array([[70.0, 60.0]]), "labels": np.array([0], np.int32)}
    both.call("add_new_points_or_box", 6, 1, **correction)
    both.propagate(start_frame_idx=6)
    print(f"masks {both.agreement}, memories {both.memory_error:.1e}, pointers {both.pointer_error:.1e}")
    assert any(0.01 < share < 0.99 for share in both.shares)
    assert both.agreement >= 0.9999
    assert both.memory_error <= 1e-5
    assert both.pointer_error <= 1e-5


@pytest.mark.parametrize("name", ["sam2.1_hiera_l", "sam2_hiera_t"])
def test_sizes_are_the_releases(name):
    """Those of the one that was released, which a model of any size takes."""
    described = describe_refiner(HQSAM2Config(), get_config(name))
    assert len(described) == 13
    assert sum(int(np.prod(weight.shape)) for weight in described.values()) == 177_152
