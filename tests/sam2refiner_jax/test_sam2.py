"""The whole model against the official package at the released size, every parameter random."""

import jax
import numpy as np
import pytest
import torch
from official import nchw, official_and_ours, official_image_predictor, relative_error

from sam2refiner_jax import SAM2ImagePredictor
from sam2refiner_jax.preprocess import preprocess_image


@pytest.mark.parametrize("name", ["sam2.1_hiera_t", "sam2.1_hiera_s", "sam2.1_hiera_b+", "sam2.1_hiera_l"])
def test_encoder_and_decoder_equal_official(name, photo):
    """The four trunks at the released size; `test_image_predictor` goes through all kinds of prompts with one."""
    official, ours = (
        official_image_predictor(official_and_ours(name)[0]),
        SAM2ImagePredictor(official_and_ours(name)[1]),
    )
    official.set_image(photo)
    ours.set_image(photo)
    reference = (*official._features["high_res_feats"], official._features["image_embed"])
    for level, expected in zip(
        (*ours._photos.features.high_res, ours._photos.features.embedding), reference, strict=True
    ):
        assert relative_error(nchw(level), expected) <= 1e-5

    prompts = {"point_coords": [[500, 375]], "point_labels": [1], "box": [100, 200, 1500, 900], "return_logits": True}
    for multimask in (True, False):
        expected = official.predict(**prompts, multimask_output=multimask)
        result = ours.predict(**prompts, multimask_output=multimask)
        assert np.abs(result[2] - expected[2]).max() <= 1e-4 * np.ptp(expected[2])
        assert np.abs(result[1] - expected[1]).max() <= 1e-5
        assert ((result[0] > 0) == (expected[0] > 0)).mean() >= 0.9999


def test_stage_outputs_equal_official(photo):
    official, ours = official_and_ours("sam2.1_hiera_t")
    image = preprocess_image(photo, 1024)[None]
    stages = jax.jit(lambda model, x: model.encode_image(x).stages)(ours, image)
    with torch.no_grad():
        reference = official.image_encoder.trunk(torch.from_numpy(nchw(image).copy()))
    assert [s.shape[1] for s in stages] == [256, 128, 64, 32]
    for stage, expected in zip(stages, reference, strict=True):
        assert relative_error(nchw(stage), expected) <= 1e-5


@pytest.mark.parametrize("size", [256, 416])
def test_other_input_sizes_equal_official(size, photo):
    """At 416 pixels no window size but the first stage's divides its map, so all others are padded."""
    official, ours = official_and_ours("sam2.1_hiera_t")
    image = preprocess_image(photo, size)[None]
    features = jax.jit(lambda model, x: model.encode_image(x))(ours, image)
    with torch.no_grad():
        reference = official.forward_image(torch.from_numpy(nchw(image).copy()))["backbone_fpn"]
    for level, expected in zip((*features.high_res, features.embedding), reference, strict=True):
        assert relative_error(nchw(level), expected) <= 1e-5


def test_take_repeats_photos():
    _, ours = official_and_ours("sam2.1_hiera_t")
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    features = jax.jit(lambda model, x: model.encode_image(x).without_stages())(ours, images)
    taken = features.take(np.array([1, 0, 1]))
    np.testing.assert_array_equal(taken.embedding[2], features.embedding[1])
    np.testing.assert_array_equal(taken.high_res[0][1], features.high_res[0][0])
    assert taken.stages == ()
