"""The whole model against the official package, every parameter random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from official import (
    build_official,
    nchw,
    official_and_ours,
    official_image_predictor,
    ours_of_few_blocks,
    randomise,
    relative_error,
)

from sam2refiner_jax import SAM2ImagePredictor
from sam2refiner_jax.features import ImageFeatures
from sam2refiner_jax.image.preprocess import preprocess_image


def test_encoder_and_decoder_equal_official(photo):
    """At the released size; `test_image_predictor` goes through all kinds of prompts at a smaller one."""
    assert_equal(*official_and_ours("sam2.1_hiera_t"), photo)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2.1_hiera_s", "sam2.1_hiera_b+", "sam2.1_hiera_l"])
def test_large_trunks_equal_official(name, photo):
    """At the released size."""
    assert_equal(*official_and_ours(name), photo)


def assert_equal(official, ours, photo):
    official, ours = official_image_predictor(official), SAM2ImagePredictor(ours)
    official.set_image(photo)
    ours.set_image(photo)
    reference = (*official._features["high_res_feats"], official._features["image_embed"])
    for level, expected in zip((*ours._photos.features.high_res, ours._photos.embedding), reference, strict=True):
        assert relative_error(nchw(level), expected) <= 1e-5

    prompts = {"point_coords": [[500, 375]], "point_labels": [1], "box": [100, 200, 1500, 900], "return_logits": True}
    for multimask in (True, False):
        expected = official.predict(**prompts, multimask_output=multimask)
        result = ours.predict(**prompts, multimask_output=multimask)
        assert np.abs(result[2] - expected[2]).max() <= 1e-4 * np.ptp(expected[2])
        assert np.abs(result[1] - expected[1]).max() <= 1e-5
        assert ((result[0] > 0) == (expected[0] > 0)).mean() >= 0.9999


# No window size but the first stage's divides its map at 416 pixels, so all others are padded.
@pytest.mark.parametrize(("name", "size"), [("sam2.1_hiera_t", 416), ("sam2.1_hiera_b+", 256), ("sam2.1_hiera_l", 416)])
def test_stages_and_levels_of_other_input_sizes_equal_official(name, size, photo):
    """Trunks of all widths, windows and positional embeddings."""
    official = randomise(build_official(name, few_blocks=True))
    ours = ours_of_few_blocks(official, name, size)
    image = preprocess_image(photo, size)[None]
    features = jax.jit(lambda model, x: model.encode_image(x))(ours, image)
    with torch.no_grad():
        x = torch.from_numpy(nchw(image).copy())
        reference = (*official.image_encoder.trunk(x), *official.forward_image(x)["backbone_fpn"])
    assert [s.shape[1] for s in features.stages] == [size // stride for stride in (4, 8, 16, 32)]
    results = (*features.stages, *features.high_res, features.embedding)
    for result, expected in zip(results, reference, strict=True):
        assert relative_error(nchw(result), expected) <= 1e-5


def test_take_repeats_photos():
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(2, side, side, 4))) for side in (2, 8, 4)]
    features = ImageFeatures(maps[0], (maps[1], maps[2]), ())
    taken = features.take(np.array([1, 0, 1]))
    for photo, source in enumerate((1, 0, 1)):
        np.testing.assert_array_equal(taken.embedding[photo], features.embedding[source])
        for ours, expected in zip(taken.high_res, features.high_res, strict=True):
            np.testing.assert_array_equal(ours[photo], expected[source])
    assert taken.stages == ()
