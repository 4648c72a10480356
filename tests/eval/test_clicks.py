"""The clicking robot and the number of clicks."""

import numpy as np
from scenes import scene

from sam2refiner_jax.eval.clicks import Click, next_click, number_of_clicks


def rectangle(top, bottom, left, right):
    mask = np.zeros((30, 40), bool)
    mask[top:bottom, left:right] = True
    return mask


EMPTY = rectangle(0, 0, 0, 0)


def test_the_first_click_is_in_the_middle_of_the_object():
    assert next_click(EMPTY, rectangle(5, 16, 10, 31)) == Click(15, 10, 1)  # the leftmost of the deepest


def test_a_click_goes_to_the_deeper_error_whatever_its_area():
    truth = rectangle(0, 3, 0, 40) | rectangle(10, 19, 10, 19)
    assert next_click(EMPTY, truth) == Click(14, 14, 1)


def test_surplus_gets_a_click_off_the_object():
    truth, prediction = rectangle(5, 16, 2, 13), rectangle(5, 16, 2, 33)
    assert next_click(prediction, truth).label == 0
    assert next_click(prediction, truth).x > 13


def test_the_border_of_the_image_is_an_edge():
    assert next_click(EMPTY, rectangle(0, 9, 0, 9)) == Click(4, 4, 1)


def test_equals_are_told_apart_by_their_order_only():
    """OpenCV's roots of equal squares differ in the last digit, by the memory that it happens to get."""
    truth = scene(1, 3)[1][1] > 0  # an ellipse, whose two middle pixels are equal
    clicks = set()
    for size in range(300):
        spare = np.empty(13 * size + 5)  # moves what is allocated next
        clicks.add(next_click(np.zeros_like(truth), truth))
    assert len(clicks) == 1, spare.size


def test_no_pixel_is_clicked_twice():
    truth = rectangle(4, 7, 4, 7)
    first = next_click(EMPTY, truth)
    assert next_click(EMPTY, truth, (first,)) != first


def test_number_of_clicks():
    ious = [0.5, 0.86, 0.84, 0.91]
    assert [number_of_clicks(ious, target, 20) for target in (0.4, 0.85, 0.9, 0.95)] == [1, 2, 4, 20]
