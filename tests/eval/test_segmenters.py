"""Baselines, and our model batched over devices against the predictor."""

import numpy as np
import pytest
from scenes import scene
from small import hq_model, refining_model, sam_ref_model, small_model

from sam2refiner_jax import SAM2ImagePredictor
from sam2refiner_jax.checkpoints import weights_checksum
from sam2refiner_jax.eval import jax_segmenter
from sam2refiner_jax.eval.jax_segmenter import JaxSegmenter
from sam2refiner_jax.eval.metrics import iou
from sam2refiner_jax.eval.segmenters import FilledBox, GrabCut
from sam2refiner_jax.eval.truth_prompts import Prompt, prompt_from_mask
from sam2refiner_jax.image.boxes import box_around
from sam2refiner_jax.image.preprocess import preprocess_image
from sam2refiner_jax.image.rough_masks import improve_masks

PROMPTS = [
    Prompt(box=(5.0, 6.0, 50.0, 40.0)),
    Prompt(points=((20.0, 30.0, 1), (60.0, 10.0, 0))),
    Prompt(points=((40.0, 20.0, 1),), logits=np.random.default_rng(0).normal(0, 5, (1, 16, 16)).astype(np.float32)),
]


def mask_of(segmenter, photo, prompt):
    return segmenter.segment(segmenter.encode([photo]), [prompt], "mask")[0].mask


def test_box_fills_the_box_to_its_last_row_and_column():
    photo, (mask,) = scene(0)
    box = mask_of(FilledBox(), photo, Prompt(box=box_around(mask > 0)))
    y, x = np.nonzero(mask)
    assert (box.sum(), np.ptp(x) + 1) == ((np.ptp(x) + 1) * (np.ptp(y) + 1), np.ptp(np.nonzero(box)[1]) + 1)
    assert box[mask > 0].all()


def test_box_of_clicks_holds_those_on_the_object():
    points = ((10.0, 5.0, 1), (20.0, 9.0, 1), (70.0, 50.0, 0))
    mask = mask_of(FilledBox(), scene(0)[0], Prompt(points=points))
    assert np.argwhere(mask)[[0, -1]].tolist() == [[5, 10], [9, 20]]


def test_grabcut_finds_a_bright_object_and_repeats_itself():
    photo, (mask,) = scene(1)
    prompt = Prompt(box=box_around(mask > 0))
    found = mask_of(GrabCut(), photo, prompt)
    assert iou(found, mask > 0) > 0.95 > iou(mask_of(FilledBox(), photo, prompt), mask > 0)
    np.testing.assert_array_equal(found, mask_of(GrabCut(), photo, prompt))


def test_grabcut_starts_from_clicks():
    photo, (mask,) = scene(1)
    y, x = np.argwhere(mask).mean(axis=0)
    assert iou(mask_of(GrabCut(), photo, Prompt(points=((x, y, 1),))), mask > 0) > 0.9


def test_grabcut_without_a_background_fills_the_box():
    photo = scene(0)[0]
    box = (0.0, 0.0, photo.shape[1] - 1.0, photo.shape[0] - 1.0)
    assert mask_of(GrabCut(), photo, Prompt(box=box)).all()


@pytest.fixture(scope="module")
def segmenter():
    return JaxSegmenter(refining_model(), "m", photos_per_device=4)


@pytest.mark.parametrize("model", [refining_model, pytest.param(hq_model, marks=pytest.mark.slow)])
def test_masks_equal_the_predictor(model):
    """Of three photos of different sizes in a batch that has room for four."""
    segmenter = JaxSegmenter(model(), "m", photos_per_device=4)
    photos = [scene(seed, height=50 + 10 * seed)[0] for seed in range(3)]
    predictor = SAM2ImagePredictor(model())
    encoded = segmenter.encode(photos)
    answers = {kind: segmenter.segment(encoded, PROMPTS, kind) for kind in ("coarse", "refined")}
    for i, (photo, prompt) in enumerate(zip(photos, PROMPTS, strict=True)):
        predictor.set_image(photo)
        for kind, refine in (("coarse", False), ("refined", True)):
            masks, _, logits = predictor.predict(
                point_coords=prompt.coordinates,
                point_labels=prompt.labels,
                box=prompt.corners,
                mask_input=prompt.logits,
                multimask_output=False,
                refine=refine,
            )
            assert (answers[kind][i].mask == (masks[0] > 0)).mean() >= 0.999  # of two programs
            np.testing.assert_allclose(answers[kind][i].logits, logits, atol=1e-5)
    assert not np.array_equal(answers["coarse"][0].mask, answers["refined"][0].mask)


def test_rough_masks_are_made_finer_as_by_the_command_refine():
    photo, (mask,) = scene(0)
    rough = np.roll(mask > 0, 3, axis=1)
    segmenter, predictor = JaxSegmenter(refining_model(), "m"), SAM2ImagePredictor(refining_model())
    (answer,) = segmenter.segment(segmenter.encode([photo]), [prompt_from_mask(rough)], "refined")
    predictor.set_image(photo)
    (improved,) = improve_masks(predictor, [rough])
    assert (answer.mask == improved.mask).mean() >= 0.999  # of two programs
    assert 0 < answer.mask.sum() < answer.mask.size


def test_clicks_go_on_from_those_before_as_in_the_predictor():
    """Two photos side by side, one at its second click, the other at its first."""
    segmenter, predictor = JaxSegmenter(sam_ref_model(), "m", photos_per_device=2), SAM2ImagePredictor(sam_ref_model())
    photos = [scene(seed)[0] for seed in range(2)]
    one, two = (20.0, 30.0, 1), (44.0, 10.0, 0)
    encoded = segmenter.encode(photos)
    first, _ = segmenter.segment(encoded, [Prompt(points=(one,)), None], "refined")
    second = Prompt(points=(one, two), logits=first.logits, carry=first.carry)
    found = segmenter.segment(encoded, [second, Prompt(points=(two,))], "refined")
    forgetful = segmenter.segment(encoded, [Prompt(points=(one, two), logits=first.logits), None], "refined")
    predictor.set_image(photos[0])
    logits = predictor.predict([one[:2]], [1], multimask_output=False)[2]
    masks, _, logits = predictor.predict([one[:2], two[:2]], [1, 0], mask_input=logits, multimask_output=False)
    assert (found[0].mask == (masks[0] > 0)).mean() >= 0.999
    np.testing.assert_allclose(found[0].logits, logits, atol=1e-5)
    np.testing.assert_allclose(found[0].carry[0] > 0, predictor._conversation.turns[-1].carry.mask[0] > 0)
    assert np.abs(found[0].carry[0] - forgetful[0].carry[0]).max() > 1e-3
    predictor.set_image(photos[1])
    masks = predictor.predict([two[:2]], [0], multimask_output=False)[0]
    assert (found[1].mask == (masks[0] > 0)).mean() >= 0.999


def test_photos_without_a_prompt_get_no_mask(segmenter):
    encoded = segmenter.encode([scene(0)[0], scene(1)[0]])
    answers = segmenter.segment(encoded, [None, PROMPTS[0]], "coarse")
    assert [answer is None for answer in answers] == [True, False]


def test_views_of_the_source_photo_are_cut_from_it(segmenter, monkeypatch):
    monkeypatch.setattr(type(refining_model().refiner), "views", "source")
    given = []
    monkeypatch.setattr(jax_segmenter, "_encode", lambda model, images, views, mesh: given.append(views))
    photo = scene(3, height=200, width=300)[0]
    segmenter.encode([photo])
    assert given[0].shape == (4, 4, 64, 64, 3)
    np.testing.assert_array_equal(given[0][0, 1], preprocess_image(photo, 64, (0.5, 0.0, 1.0, 0.5)))


def test_a_checksum_is_of_all_weights(segmenter):
    assert segmenter.settings()["weights"] == weights_checksum(refining_model())
    checksums = {weights_checksum(model) for model in (small_model(), refining_model(), small_model())}
    assert len(checksums) == 2


def test_plain_models_make_one_kind_of_mask():
    assert JaxSegmenter(small_model(), "m").kinds == ("coarse",)
    assert JaxSegmenter(refining_model(), "m").kinds == ("coarse", "refined")
