"""IoU and Boundary IoU against brute force."""

import itertools

import numpy as np
import pytest

from sam2refiner_jax.eval.metrics import boundary_iou, iou, mask_boundary, truth_of


def eroded(mask):
    """One 3x3 erosion, pixel by pixel of the square; all beyond the border is empty."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    result = np.ones_like(mask)
    for dy, dx in itertools.product(range(3), repeat=2):
        result &= padded[dy : dy + height, dx : dx + width]
    return result


def brute_boundary(mask, ratio):
    inside = mask
    for _ in range(max(1, round(ratio * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))):
        inside = eroded(inside)
    return mask & ~inside


def brute_iou(a, b):
    union = sum(bool(x or y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    return sum(bool(x and y) for x, y in zip(a.ravel(), b.ravel(), strict=True)) / union if union else 1.0


def random_mask(rng, height, width):
    """Degenerate in half of the cases: empty, full, a pixel, a stripe at the border, noise."""
    mask = np.zeros((height, width), bool)
    kind = rng.integers(10)
    if kind == 1:
        mask[:] = True
    elif kind == 2:
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == 3:
        mask[: rng.integers(1, height + 1), -1] = True
    elif kind == 4:
        mask[:] = rng.random((height, width)) < 0.5
    elif kind >= 5:
        y, x = np.mgrid[:height, :width]
        for _ in range(rng.integers(1, 4)):
            cy, cx, ry, rx = rng.uniform(0, 1, 4) * [height, width, height / 2, width / 2] + [0, 0, 1, 1]
            mask |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    return mask


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_equal_to_brute_force_on_500_masks(ratio):
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(500):
        size = rng.integers(1, 40, 2)
        prediction, truth = random_mask(rng, *size), random_mask(rng, *size)
        if rng.random() < 0.3:  # close to each other, as predictions are
            prediction = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
        boundaries = brute_boundary(prediction, ratio), brute_boundary(truth, ratio)
        assert iou(prediction, truth) == brute_iou(prediction, truth)
        assert boundary_iou(prediction, truth, ratio) == brute_iou(*boundaries)
        np.testing.assert_array_equal(mask_boundary(truth, ratio), boundaries[1])
        seen |= {"empty" if not m.any() else "full" if m.all() else "pixel" if m.sum() == 1 else "" for m in (truth,)}
        seen.add("both empty" if not (truth.any() or prediction.any()) else "")
    assert seen == {"", "empty", "full", "pixel", "both empty"}


def test_boundary_of_a_photo_sized_mask():
    """At 480p the boundary is 20 pixels wide: more than a window of the mask alone would show."""
    y, x = np.mgrid[:480, :854]
    truth = (x - 100) ** 2 + (y - 240) ** 2 < 150**2  # reaches over the left border
    prediction = np.roll(truth, 7, 1)
    expected = brute_boundary(prediction, 0.02), brute_boundary(truth, 0.02)
    assert boundary_iou(prediction, truth) == (expected[0] & expected[1]).sum() / (expected[0] | expected[1]).sum()
    np.testing.assert_array_equal(mask_boundary(truth), expected[1])


def test_the_truth_is_cut_as_hq_sam_cuts_it():
    np.testing.assert_array_equal(truth_of(np.array([[0, 127, 128, 129, 255]], np.uint8)), [[0, 0, 0, 1, 1]])


@pytest.mark.parametrize("measure", [iou, boundary_iou])
def test_masks_of_two_sizes_are_refused(measure):
    with pytest.raises(ValueError, match="one size, got 5 x 4 and 4 x 5"):
        measure(np.zeros((4, 5), bool), np.zeros((5, 4), bool))
