"""Prompts found in rough masks, and what the model in the package makes of them."""

import cv2
import numpy as np
import pytest
from scenes import scene

from sam2refiner_jax import SAM2ImagePredictor, load_model
from sam2refiner_jax.eval.metrics import iou
from sam2refiner_jax.eval.roughening import WAYS, roughen
from sam2refiner_jax.image.rough_masks import improve_masks, prompts_of

Y, X = np.mgrid[:60, :80]


def test_prompts_describe_the_mask():
    """A disk with a bite: a click in the middle of what is left, one in the bite, and a mask that fades to its edge."""
    mask = ((X - 40) ** 2 + (Y - 30) ** 2 < 20**2) & ~((X > 40) & (Y < 30))
    prompts = prompts_of(mask, 16)
    (x, y), (off_x, off_y) = prompts.points.astype(int)
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    assert distance[y, x] >= distance.max() - 0.2
    assert prompts.labels.tolist() == [1, 0]
    assert not mask[off_y, off_x]
    assert prompts.box.tolist() == [X[mask].min(), Y[mask].min(), X[mask].max(), Y[mask].max()]
    small = cv2.resize(mask.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    sure = np.abs(small - 0.5) > 0.4
    np.testing.assert_array_equal((prompts.mask[0] > 0)[sure], (small > 0.5)[sure])
    assert abs(prompts.mask).max() <= 10
    assert abs(prompts.mask[0][~sure]).max() < 10


def test_a_box_has_no_room_for_a_click_off_it():
    mask = (X >= 10) & (X < 30) & (Y >= 5) & (Y < 50)
    assert prompts_of(mask, 16).labels.tolist() == [1, -1]
    assert prompts_of(np.ones((60, 80), bool), 16).labels.tolist() == [1, -1]


@pytest.mark.optimised
def test_masks_made_rough_become_finer():
    """Objects that the model in the package can find, damaged in four ways: IoU with the truth rises in each."""
    predictor = SAM2ImagePredictor(load_model("nano"))
    before, after = [], []
    for index in range(6):
        photo, (mask,) = scene(index)
        photo, truth = np.kron(photo, np.ones((4, 4, 1), np.uint8)), np.kron(mask, np.ones((4, 4), np.uint8)) > 0
        rough = [roughen(truth, way) for way in WAYS]
        predictor.set_image(photo)
        before.append([iou(mask, truth) for mask in rough])
        after.append([iou(found.mask, truth) for found in improve_masks(predictor, rough)])
    print("before", np.mean(before, axis=0), "after", np.mean(after, axis=0))
    assert (np.mean(after, axis=0) > np.mean(before, axis=0)).all()


def test_several_objects_at_once_are_as_one_by_one(small_predictor):
    masks = [(X - 20) ** 2 + (Y - 20) ** 2 < 100, (X > 45) & (Y > 30)]
    together = improve_masks(small_predictor, masks, rounds=3)
    for mask, found in zip(masks, together, strict=True):
        (alone,) = improve_masks(small_predictor, [mask], rounds=3)
        np.testing.assert_allclose(found.logits, alone.logits, rtol=1e-3, atol=1e-3)
        assert found.predicted_iou == pytest.approx(alone.predicted_iou, abs=1e-4)
        assert found.agreement == pytest.approx((found.mask & mask).sum() / (found.mask | mask).sum())
    row, pixel = np.zeros((2, 60, 80), bool)
    row[0, 33:36], pixel[59, 79] = True, True
    assert len(improve_masks(small_predictor, [row, pixel])) == 2
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        improve_masks(small_predictor, masks, rounds=0)


@pytest.fixture(scope="module")
def small_predictor():
    from small import small_model

    predictor = SAM2ImagePredictor(small_model())
    predictor.set_image(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    return predictor
