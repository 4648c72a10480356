"""A photo that is padded is as the photo that somebody has padded already."""

import cv2
import numpy as np
import pytest
from PIL import Image
from scenes import scene
from small import refining_model, small_model

from sam2refiner_jax import SAM2AutomaticMaskGenerator, SAM2ImagePredictor
from sam2refiner_jax.commands.photo_prompts import PhotoPrompts
from sam2refiner_jax.eval.jax_segmenter import JaxSegmenter
from sam2refiner_jax.eval.truth_prompts import prompt_from_mask
from sam2refiner_jax.image.canvas import check_fit
from sam2refiner_jax.image.mask_measures import Grid
from sam2refiner_jax.image.postprocess import resize_masks
from sam2refiner_jax.image.preprocess import MEAN, preprocess_image
from sam2refiner_jax.image.rough_masks import improve_masks, prompts_of
from sam2refiner_jax.refiners.localization_augment import QUARTERS

WIDE, TALL = (50, 173), (211, 64)


def photo_of(height, width):
    return (np.random.default_rng(height).integers(0, 256, (height, width, 3)) / 255).astype(np.float32)


def padded(photo):
    """By hand: the photo in the top left corner of a square of the mean colour."""
    side = max(photo.shape[:2])
    square = np.broadcast_to(MEAN, (side, side, 3)).copy()
    square[: photo.shape[0], : photo.shape[1]] = photo
    return square


@pytest.mark.parametrize("size", [WIDE, TALL, (300, 7), (64, 64), (33, 32)])
def test_the_input_is_that_of_the_padded_photo(size):
    photo = photo_of(*size)
    for box in ((0.0, 0.0, 1.0, 1.0), *QUARTERS):
        expected = preprocess_image(padded(photo), 64, box)
        np.testing.assert_allclose(preprocess_image(photo, 64, box, "pad"), expected, atol=2e-5)


@pytest.mark.parametrize("size", [WIDE, TALL, (64, 64)])
def test_masks_are_those_of_the_padded_photo_cut_to_the_photo(size):
    logits = np.random.default_rng(0).normal(size=(2, 1, 16, 16)).astype(np.float32)
    square = (max(size), max(size))
    expected = resize_masks(logits, square)[..., : size[0], : size[1]]
    np.testing.assert_allclose(resize_masks(logits, size, square), expected, atol=1e-5)
    rows, columns = Grid(size, (600, 600), "pad").matrices(16)
    by_matrix = (rows @ logits @ columns.T)[..., : size[0], : size[1]]
    np.testing.assert_allclose(by_matrix, expected, atol=1e-5)


@pytest.fixture(scope="module", params=[WIDE, TALL], ids=["wide", "tall"])
def both(request):
    """A photo, a predictor that pads it, and one that was given the padded photo."""
    photo = photo_of(*request.param)
    ours, expected = SAM2ImagePredictor(refining_model(), fit="pad"), SAM2ImagePredictor(refining_model())
    ours.set_image(photo)
    expected.set_image(padded(photo))
    return photo, ours, expected


def test_predictions_are_those_of_the_padded_photo(both):
    photo, ours, expected = both
    height, width = photo.shape[:2]
    clicks = np.array([[0.3 * width, 0.4 * height], [0.8 * width, 0.9 * height]])
    prompts = {"point_coords": clicks, "point_labels": [1, 0], "box": [3, 5, 0.9 * width, 0.8 * height]}
    for refine in (False, True):
        masks, ious, low_res = ours.predict(**prompts, return_logits=True, refine=refine)
        whole, same_ious, same_low_res = expected.predict(**prompts, return_logits=True, refine=refine)
        assert masks.shape[-2:] == (height, width)
        np.testing.assert_allclose(masks, whole[..., :height, :width], atol=1e-3)
        np.testing.assert_allclose(ious, same_ious, atol=1e-5)
        np.testing.assert_allclose(low_res, same_low_res, atol=1e-3)
    shares = ours.predict(clicks / (width, height), [1, 0], normalize_coords=False, return_logits=True)[0]
    np.testing.assert_allclose(shares, ours.predict(clicks, [1, 0], return_logits=True)[0], atol=1e-3)


def test_a_mask_prompt_lies_where_the_photo_does(both):
    photo, ours, _ = both
    mask = np.zeros(photo.shape[:2], bool)
    mask[10:40, 12:50] = True
    square = np.zeros((max(mask.shape),) * 2, bool)
    square[: mask.shape[0], : mask.shape[1]] = mask
    small = cv2.resize(square.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    sure = np.abs(small - 0.5) > 0.45
    found = prompts_of(mask, 16, "pad").mask[0] > 0
    np.testing.assert_array_equal(found[sure], (small > 0.5)[sure])
    (improved,) = improve_masks(ours, [mask])
    segmenter = JaxSegmenter(refining_model(), "m", fit="pad")
    encoded = segmenter.encode([(255 * photo).round().astype(np.uint8)])
    (answer,) = segmenter.segment(encoded, [prompt_from_mask(mask)], "refined")
    assert (answer.mask == improved.mask).mean() >= 0.999
    assert 0 < answer.mask.sum() < answer.mask.size


def test_the_mask_of_a_file_is_padded_with_nothing(tmp_path):
    mask = np.zeros((20, 80), np.uint8)
    mask[:, 40:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    logits = PhotoPrompts(mask=tmp_path / "mask.png").arguments((20, 80), 16, "pad")["mask_input"][0]
    expected = np.zeros((16, 16), bool)
    expected[:4, 8:] = True
    np.testing.assert_array_equal(logits > 0, expected)


def test_all_masks_are_those_of_the_padded_photo():
    photo = scene(0, height=48, width=96)[0]
    anything = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0, "points_per_side": None}
    grid = np.array([[0.2, 0.3], [0.6, 0.8], [0.9, 0.5]])
    ours = SAM2AutomaticMaskGenerator(small_model(), point_grids=[grid], fit="pad", **anything).generate(photo)
    plain = SAM2AutomaticMaskGenerator(small_model(), point_grids=[grid * (1, 0.5)], **anything)
    expected = plain.generate(padded((photo / 255).astype(np.float32)))
    assert len(ours) == len(expected) == 9
    for mask in ours:
        same = [each for each in expected if abs(each["predicted_iou"] - mask["predicted_iou"]) < 1e-6]
        assert max((mask["segmentation"] == each["segmentation"][:48]).mean() for each in same) >= 0.999


def test_another_way_to_fit_is_refused():
    with pytest.raises(ValueError, match="fit must be 'squeeze' or 'pad', got 'crop'"):
        check_fit("crop")
