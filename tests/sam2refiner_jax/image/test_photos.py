"""Preprocessing and postprocessing against PyTorch and a brute-force labelling."""

import io

import numpy as np
import pytest
import torch
from official import Normalize, Resize, ToTensor
from PIL import Image

from sam2refiner_jax.data.pictures import decode_photo
from sam2refiner_jax.image.postprocess import fill_holes_and_remove_specks, resize_masks
from sam2refiner_jax.image.preprocess import as_rgb, preprocess_image, read_photo


@pytest.mark.parametrize("shape", [(300, 200), (64, 64), (31, 500)])
def test_preprocessing_equals_pytorch(shape):
    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    official = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(Resize((128, 128))(ToTensor()(photo)))
    np.testing.assert_allclose(preprocess_image(photo, 128), official.permute(1, 2, 0), atol=5e-6)


@pytest.mark.parametrize("size", [(300, 200), (20, 31), (256, 256), (17, 900)])
def test_mask_resize_equals_pytorch(size):
    logits = 10 * np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(logits), size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resize_masks(logits, size), expected, atol=2e-3)
    assert ((resize_masks(logits, size) > 0) == (expected.numpy() > 0)).mean() > 0.9999


def components(mask):
    """8-connected components by flood fill, as lists of pixels."""
    left = set(zip(*np.nonzero(mask), strict=True))
    while left:
        component, frontier = [], [left.pop()]
        while frontier:
            y, x = frontier.pop()
            component.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            frontier.extend(near)
        yield component


@pytest.mark.parametrize(("max_hole", "max_speck"), [(0.0, 0.0), (3.0, 0.0), (0.0, 4.0), (5.0, 5.0), (1e4, 0.0)])
def test_holes_and_specks_equal_flood_fill(max_hole, max_speck):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 2, 24, 24)).astype(np.float32)
    threshold = 0.25
    expected = logits.copy()
    for source, target in zip(logits.reshape(-1, 24, 24), expected.reshape(-1, 24, 24), strict=True):
        for area, mask, value in ((max_hole, source <= threshold, 10.25), (max_speck, source > threshold, -9.75)):
            for component in components(mask):
                if len(component) <= area:
                    target[tuple(zip(*component, strict=True))] = value
    np.testing.assert_array_equal(fill_holes_and_remove_specks(logits, threshold, max_hole, max_speck), expected)


def test_photos_are_read_upright_and_16_bits_are_scaled(tmp_path):
    stored = np.random.default_rng(0).integers(0, 255, (8, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "turned.png"), np.rot90(stored, -1))
    deep = (np.arange(48, dtype=np.uint16).reshape(8, 6) * 1300).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png")[..., 0], np.round(deep / 257))
    assert as_rgb(np.zeros((3, 4), np.uint8)).shape == (3, 4, 3)


@pytest.mark.parametrize(
    ("stored", "scale"),
    [
        (lambda grey: grey.astype(np.float32) / 255, "floats in [0, 1]"),
        (lambda grey: grey.astype(np.float32), "whole floats"),
        (lambda grey: grey.astype(np.float32) * 257, "whole floats of 16 bits"),
        (lambda grey: grey.astype(np.int32), "32 bits"),
        (lambda grey: grey.astype(np.int32) * 257, "16 bits in 32"),
        (lambda grey: grey.astype(np.uint16) * 257, "16 bits"),
    ],
)
def test_pictures_of_many_bits_are_scaled_as_photos_of_8_bits(stored, scale, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (8, 6), np.uint8)
    grey[0, :2] = 0, 255
    Image.fromarray(stored(grey)).save(tmp_path / "deep.tif")
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.tif"), np.repeat(grey[..., None], 3, -1), err_msg=scale)
    np.testing.assert_array_equal(decode_photo((tmp_path / "deep.tif").read_bytes(), "deep")[..., 0], grey)


@pytest.mark.parametrize(
    "values",
    [np.float32([[0, 3.2]]), np.float32([[-1, 0.5]]), np.float32([[0, np.nan]]), np.int32([[0, 70000]])],
    ids=["beyond 1", "negative", "nan", "beyond 16 bits"],
)
def test_pictures_of_unknown_range_are_named(values, tmp_path):
    Image.fromarray(values).save(tmp_path / "range.tif")
    with pytest.raises(ValueError, match=r"range\.tif is not a readable picture: .* must have whole numbers"):
        read_photo(tmp_path / "range.tif")


def test_unreadable_photos_are_named(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    for name, reason in (
        ("cut.png", "cut.png is not a readable"),
        ("empty.jpg", "empty file"),
        ("text.jpg", "text.jpg"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_photo(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "absent.jpg")
