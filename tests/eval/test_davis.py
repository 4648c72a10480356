"""J and F against brute force and the package vos-benchmark."""

import numpy as np
import pytest

from sam2refiner_jax.eval.davis import contour_accuracy, region_similarity


def brute_contour(mask):
    height, width = mask.shape
    contour = set()
    for y in range(height):
        for x in range(width):
            right = mask[y, x + 1] if x + 1 < width else mask[y, x]
            below = mask[y + 1, x] if y + 1 < height else mask[y, x]
            corner = mask[min(y + 1, height - 1), min(x + 1, width - 1)]
            if mask[y, x] != right or mask[y, x] != below or mask[y, x] != corner:
                contour.add((y, x))
    return contour


def share_near(points, others, radius):
    return np.mean([any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points])


def brute_f(prediction, truth, bound_th):
    found, expected = brute_contour(prediction), brute_contour(truth)
    if not found and not expected:
        return 1.0
    if not found or not expected:
        return 0.0
    radius = int(np.ceil(bound_th * np.hypot(*truth.shape)))
    precision, recall = share_near(found, expected, radius), share_near(expected, found, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def random_masks(rng):
    height, width = rng.integers(4, 24, 2)
    y, x = np.mgrid[:height, :width]
    truth = ((y - rng.uniform(0, height)) / 5) ** 2 + ((x - rng.uniform(0, width)) / 7) ** 2 < 1
    prediction = [np.roll(truth, rng.integers(-3, 4, 2), (0, 1)), rng.random(truth.shape) < 0.3, truth & False, ~truth]
    return prediction[rng.integers(4)], truth & (rng.random() < 0.9)


@pytest.mark.parametrize("bound_th", [0.008, 0.1])
def test_equal_to_brute_force(bound_th):
    rng = np.random.default_rng(0)
    values = []
    for _ in range(150):
        prediction, truth = random_masks(rng)
        values.append(contour_accuracy(prediction, truth, bound_th))
        assert values[-1] == pytest.approx(brute_f(prediction, truth, bound_th), abs=1e-12)
    assert len({round(value, 3) for value in values}) > 50


def test_equal_to_vos_benchmark():
    evaluator_module = pytest.importorskip("vos_benchmark.evaluator")
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:200, :300]
    evaluator, j, f = evaluator_module.Evaluator(), [], []
    for i in range(12):
        truth = ((y - 100) / 60) ** 2 + ((x - 60 - 8 * i) / 80) ** 2 < 1
        prediction = np.roll(truth, rng.integers(-9, 10, 2), (0, 1)) & (rng.random(truth.shape) < (1 if i % 2 else 0.9))
        evaluator.feed_frame(prediction.astype(np.uint8), truth.astype(np.uint8))
        j.append(region_similarity(prediction, truth))
        f.append(contour_accuracy(prediction, truth))
    theirs = [scores[1] / 100 for scores in evaluator.conclude()]
    np.testing.assert_allclose([np.mean(j), np.mean(f)], theirs, atol=1e-12)
    assert 0.2 < theirs[1] < 0.95


def test_masks_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        contour_accuracy(np.zeros((4, 5), bool), np.zeros((5, 4), bool))
