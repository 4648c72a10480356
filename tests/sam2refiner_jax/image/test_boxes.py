"""Boxes of masks."""

import numpy as np

from sam2refiner_jax.image.boxes import box_around


def test_a_box_has_the_first_and_last_row_and_column():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:22] = True
    assert box_around(mask) == (10, 4, 21, 8)


def test_the_box_of_a_pixel_has_an_inside():
    pixel = np.zeros((20, 30), bool)
    pixel[19, 29] = True
    assert box_around(pixel) == (29, 19, 30, 20)
