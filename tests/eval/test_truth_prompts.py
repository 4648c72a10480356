"""Boxes and points drawn from the truth."""

import numpy as np
import pytest

from sam2refiner_jax.eval.truth_prompts import point_count, prompt_from_truth, random_points

TRUTH = np.zeros((20, 30), bool)
TRUTH[4:9, 10:22] = True


def test_points_lie_on_the_object_and_differ():
    points = random_points(TRUTH, 10, "a", 0)
    assert len({point[:2] for point in points}) == 10
    assert all(TRUTH[int(y), int(x)] and label == 1 for x, y, label in points)


def test_fewer_points_are_the_first_of_more():
    assert random_points(TRUTH, 10, "a", 0)[:3] == random_points(TRUTH, 3, "a", 0)


def test_points_depend_on_the_seed_and_the_name_only():
    assert random_points(TRUTH, 5, "a", 0) == random_points(TRUTH.copy(), 5, "a", 0)
    assert len({random_points(TRUTH, 5, name, seed) for name in "ab" for seed in (0, 1)}) == 4


def test_a_small_object_gives_all_its_pixels():
    small = np.zeros((20, 30), bool)
    small[3, 4:7] = True
    assert sorted(random_points(small, 10, "a", 0)) == [(4, 3, 1), (5, 3, 1), (6, 3, 1)]


def test_prompts_of_a_kind():
    assert prompt_from_truth("box", TRUTH, "a", 0).box == (10, 4, 21, 8)
    assert len(prompt_from_truth("points-2", TRUTH, "a", 0).points) == 2


@pytest.mark.parametrize("kind", ["points", "points-0", "points-x", "points--1", "mask", "masks:", "boxes"])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(ValueError, match=f"box, points-N with N points, clicks, or masks:FOLDER; got '{kind}'"):
        point_count(kind)
