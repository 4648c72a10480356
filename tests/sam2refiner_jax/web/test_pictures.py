"""What the page is shown, as the pictures in it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from sam2refiner_jax.image.overlay import PALETTE
from sam2refiner_jax.web.pictures import at_size, data_url, jpeg, mask_png, overlay_png, shown_size


def square(top, left, side=8, size=(24, 32)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def read(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


@pytest.mark.parametrize(
    ("size", "expected"), [((600, 800), (600, 800)), ((2560, 640), (1280, 320)), ((1, 5000), (1, 1280))]
)
def test_large_photos_are_shown_smaller(size, expected):
    assert shown_size(*size) == expected


def test_masks_are_tinted_outlined_and_clear_elsewhere():
    masks = [square(2, 2), square(4, 6), square(14, 20)]
    picture = read(overlay_png(masks, [0, 1, 7]))
    covered = np.any(masks, axis=0)
    assert (picture[~covered, 3] == 0).all()
    for place, colour in (((3, 3), 0), ((8, 10), 1), ((18, 24), 0)):  # the seventh colour is the first again
        assert picture[place][:3].tolist() == PALETTE[colour].tolist()
    assert picture[18, 24, 3] == 128
    assert picture[14, 20, 3] == 255
    assert picture[8, 8][:3].tolist() == PALETTE[1].tolist()  # where both are, the later one


def test_a_smaller_mask_has_what_is_mostly_covered():
    mask = square(0, 0, side=5, size=(8, 8))
    expected = mask.reshape(4, 2, 4, 2).mean(axis=(1, 3)) >= 0.5
    np.testing.assert_array_equal(at_size(mask, (4, 4)), expected)
    assert at_size(mask, (8, 8)) is mask


def test_files_hold_what_was_given():
    mask = square(3, 5)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask_png(mask)))), mask * np.uint8(255))
    photo = np.full((40, 60, 3), (200, 90, 30), np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(jpeg(photo, (20, 30)))))
    assert shown.shape == (20, 30, 3)
    assert np.abs(shown.astype(int) - (200, 90, 30)).max() <= 4
    address = data_url(b"abc", "image/png")
    assert address.startswith("data:image/png;base64,")
    assert base64.b64decode(address.partition(",")[2]) == b"abc"
