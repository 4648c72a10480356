"""Masks in every form that people have them, against the objects that they were drawn from."""

import io
import re

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sam2refiner_jax.data.masks import (
    EmptyMaskError,
    davis_palette,
    decode_mask,
    numbers_picture,
    read_mask,
    read_numbers,
    read_objects,
)

HEIGHT, WIDTH = 60, 90
SIZE = (HEIGHT, WIDTH)
Y, X = np.mgrid[:HEIGHT, :WIDTH]
DISK = (Y - 30) ** 2 + (X - 25) ** 2 < 15**2
SQUARE = (abs(Y - 20) < 12) & (abs(X - 65) < 14)
BORDER = (abs(Y - 20) < 15) & (abs(X - 65) < 17) & ~SQUARE
NOTHING = np.zeros(SIZE, np.uint8)
# One object and two, numbered.
ONE, TWO = DISK.astype(np.uint8), DISK + 2 * SQUARE.astype(np.uint8)
VOIDED, BRIGHT = TWO + np.uint8(255) * BORDER, ONE * 3 + np.uint8(200) * SQUARE
RNG = np.random.default_rng(0)
PHOTO = np.asarray(
    Image.fromarray(RNG.integers(0, 255, (6, 9, 3), np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
)


def palette_picture(numbers: np.ndarray, colours: np.ndarray | list[int]) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8))
    image.putpalette(list(np.ravel(colours)))
    return image


def coloured(numbers: np.ndarray, *colours: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.array(colours, np.uint8)[numbers])


def smoothed(mask: np.ndarray, radius: float = 1.5) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(radius))


def save(image: Image.Image, path, kind: str | None = None):
    image.save(path, kind or "PNG")
    return path


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return Image.open(file)


def transparent(rgb: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([rgb, alpha]).astype(np.uint8))


BLACK, WHITE, RED, BLUE, PINK = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255), (250, 128, 190)
GREY_RAMP = np.repeat(np.arange(0, 256, 50), 3)

# What each picture shows: the number of each object with its pixels.
OBJECTS = {
    "0 and 1": (Image.fromarray(ONE), {1: DISK}),
    "0 and 255": (Image.fromarray(ONE * 255), {255: DISK}),
    "0 and 2": (Image.fromarray(ONE * 2), {2: DISK}),
    "thin, 0 and 2": (Image.fromarray((X == Y).astype(np.uint8) * 2), {2: X == Y}),
    "bits": (Image.fromarray(DISK), {255: DISK}),
    "white": (Image.fromarray(NOTHING + 255), {255: NOTHING == 0}),
    "numbered": (Image.fromarray(TWO), {1: DISK, 2: SQUARE}),
    "numbered with void": (Image.fromarray(VOIDED), {1: DISK, 2: SQUARE}),
    "levels to be seen": (Image.fromarray(ONE * 100 + SQUARE * np.uint8(255)), {100: DISK, 255: SQUARE}),
    "palette": (palette_picture(TWO, davis_palette()), {1: DISK, 2: SQUARE}),
    "palette with void": (palette_picture(VOIDED, davis_palette()), {1: DISK, 2: SQUARE}),
    "palette, object 7 is grey": (palette_picture(ONE * 7, davis_palette()), {7: DISK}),
    "palette, bright numbers": (
        palette_picture(BRIGHT, davis_palette()),
        {3: DISK, 200: SQUARE},
    ),
    "palette of greys": (palette_picture(TWO, GREY_RAMP), {1: DISK, 2: SQUARE}),
    "palette all black": (palette_picture(TWO, [0] * 768), {1: DISK, 2: SQUARE}),
    "palette black on white": (palette_picture(1 - ONE, [255, 255, 255, 0, 0, 0]), {255: 1 - ONE == 0}),
    "16 bits, 0 and 65535": (Image.fromarray(ONE * np.uint16(65535)), {255: DISK}),
    "16 bits, numbered": (Image.fromarray(TWO * np.uint16(300)), {300: DISK, 600: SQUARE}),
    "32 bits": (Image.fromarray(TWO.astype(np.int32)), {1: DISK, 2: SQUARE}),
    "floats": (Image.fromarray(DISK.astype(np.float32)), {1: DISK}),
    "grey RGB": (coloured(ONE, BLACK, WHITE), {255: DISK}),
    "grey RGB, numbered": (coloured(TWO, BLACK, (1, 1, 1), (2, 2, 2)), {1: DISK, 2: SQUARE}),
    "one colour": (coloured(ONE, BLACK, PINK), {1: DISK}),
    "colours of DAVIS": (Image.fromarray(davis_palette()[TWO + np.uint8(3) * SQUARE]), {1: DISK, 5: SQUARE}),
    "colours of DAVIS with void": (
        Image.fromarray(davis_palette()[VOIDED]),
        {1: DISK, 2: SQUARE},
    ),
    "other colours": (coloured(TWO, BLACK, RED, BLUE), {1: SQUARE, 2: DISK}),
    "opaque": (transparent(np.repeat(ONE[..., None] * 255, 3, -1), NOTHING + 255), {255: DISK}),
    "evenly transparent": (transparent(np.repeat(ONE[..., None] * 255, 3, -1), NOTHING + 77), {255: DISK}),
    "white, in its alpha": (transparent(np.full((*SIZE, 3), 255), ONE * 255), {255: DISK}),
    "black, in its alpha": (transparent(np.zeros((*SIZE, 3)), ONE * 255), {255: DISK}),
    "grey, in its alpha": (Image.fromarray(np.dstack([NOTHING + 90, ONE * 255])), {255: DISK}),
    "cut out of a photo": (transparent(PHOTO, ONE * 255), {255: DISK}),
    "colours on nothing": (
        transparent(np.array([WHITE, RED, BLUE])[TWO], (TWO > 0) * 255),
        {1: SQUARE, 2: DISK},
    ),
    "white and black on nothing": (
        transparent(np.array([WHITE, WHITE, BLACK])[TWO], (TWO > 0) * 255),
        {255: DISK},
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_those_that_were_drawn(name, tmp_path):
    image, expected = OBJECTS[name]
    path = save(image, tmp_path / "mask", "TIFF" if image.mode in ("I", "F") else None)
    found = read_objects(path, SIZE)
    assert {*np.unique(found)} - {0} == {*expected}
    for number, pixels in expected.items():
        np.testing.assert_array_equal(found == number, pixels)
    together = np.logical_or.reduce([*expected.values()])
    np.testing.assert_array_equal(read_mask(path, SIZE), together)
    np.testing.assert_array_equal(decode_mask(path.read_bytes(), path), together * 255)


SOFT = {
    "smoothed": smoothed(DISK),
    "smoothed a little": smoothed(DISK, 0.6),
    "JPEG": jpeg(Image.fromarray(ONE * 255)),
    "JPEG of a smoothed one": jpeg(smoothed(DISK)),
    "JPEG in colour": jpeg(Image.fromarray(ONE * 255).convert("RGB")),
    "smoothed red": Image.merge("RGB", [smoothed(DISK), *[Image.fromarray(NOTHING)] * 2]),
    "smoothed, with a grey palette": palette_picture(np.asarray(smoothed(DISK)), np.repeat(np.arange(256), 3)),
    "smoothed, 16 bits": Image.fromarray(np.asarray(smoothed(DISK)) * np.uint16(257)),
    "smoothed, floats": Image.fromarray(np.asarray(smoothed(DISK), np.float32) / 255),
    "smoothed alpha": transparent(np.full((*SIZE, 3), 255), np.asarray(smoothed(DISK))),
    "smoothed alpha of a photo": transparent(PHOTO, np.asarray(smoothed(DISK))),
    "a quarter covered along an edge": Image.fromarray(ONE * 255 + np.uint8(64) * (~DISK & np.roll(DISK, 1, 1))),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("name", SOFT)
def test_soft_masks_are_one_object_where_it_covers_half(name, kind, tmp_path):
    image = SOFT[name]
    if kind == "JPEG" and image.mode not in ("L", "RGB"):
        image = image.convert("L") if image.mode == "P" else Image.merge("RGB", [smoothed(DISK)] * 3)
    path = save(image, tmp_path / "mask", "TIFF" if image.mode == "F" else kind)
    found = read_objects(path, SIZE)
    assert {*np.unique(found)} == {0, 255}
    # Smoothing moves a round edge by less than a pixel, compression adds some noise there.
    inner, outer = (Y - 30) ** 2 + (X - 25) ** 2 < 13.5**2, (Y - 30) ** 2 + (X - 25) ** 2 < 16.5**2
    assert (found[inner] == 255).all()
    assert (found[~outer] == 0).all()
    np.testing.assert_array_equal(read_mask(path, SIZE), found == 255)
    cover = decode_mask(path.read_bytes(), path)
    assert ((cover > 0) & (cover < 255)).any()
    np.testing.assert_array_equal(cover >= 128, found == 255)


@pytest.mark.parametrize(
    ("image", "largest"),
    [
        (Image.fromarray(NOTHING), 0),
        (palette_picture(NOTHING, davis_palette()), 0),
        (Image.fromarray(NOTHING + 2), 2),
        (smoothed(DISK).point(lambda value: value * 100 // 255), 100),
        (Image.fromarray(np.asarray(smoothed(DISK)).astype(np.uint16) * 100), 99),
        (transparent(np.full((*SIZE, 3), 255), NOTHING), 0),
        (Image.fromarray(np.zeros((*SIZE, 3), np.uint8)), 0),
    ],
    ids=["black", "palette", "one level", "dim", "dim 16 bits", "all transparent", "black RGB"],
)
def test_empty_masks_are_named_with_their_largest_value(image, largest, tmp_path):
    path = save(image, tmp_path / "mask.png")
    for reader in (read_mask, read_objects):
        with pytest.raises(EmptyMaskError, match=rf"mask\.png is empty: .*the largest value is {largest}\b"):
            reader(path, SIZE)


def test_what_is_no_mask_is_named(tmp_path):
    path = tmp_path / "mask.png"
    for image, message in [
        (Image.fromarray(PHOTO), r"must have one colour for each object; most of its \d+ colours make no area"),
        (jpeg(coloured(TWO, BLACK, RED, BLUE)), "must have one colour for each object"),
        (Image.fromarray(NOTHING[:, :50]), "is 50 x 60 pixels, the .* 90 x 60"),
        (Image.fromarray(ONE * np.float32(1.5)), r"must hold whole numbers or shares of 1, got 0\.0 to 1\.5"),
        (Image.fromarray(ONE * np.float32("nan")), "must hold whole numbers or shares of 1, got nan"),
        (Image.fromarray(ONE * np.int32(-1)), "must hold numbers from 0"),
    ]:
        save(image, path, "TIFF" if image.mode in ("I", "F") else None)
        for reader in (read_mask, read_objects):
            with pytest.raises(ValueError, match=f"{re.escape(str(path))}.* {message}"):
                reader(path, SIZE)
    save(Image.fromarray(TWO * np.int32(40000)), path, "TIFF")
    with pytest.raises(ValueError, match=r"mask\.png must have numbers up to 65535, got 80000"):
        read_objects(path, SIZE)
    for content, message in [(b"text", "no picture format that is known"), (b"", "empty file")]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"mask\.png is not a readable picture: {message}"):
            read_mask(path, SIZE)
    path.unlink()
    with pytest.raises(ValueError, match=r"mask\.png cannot be read: No such file"):
        read_mask(path, SIZE)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(VOIDED), VOIDED),
        (Image.fromarray((X == Y) * np.uint8(3) + (X == Y + 9) * np.uint8(200)), (X == Y) * 3 + (X == Y + 9) * 200),
        (Image.fromarray(TWO * np.uint16(300)), TWO.astype(int) * 300),
        (palette_picture(1 - ONE, [255, 255, 255, 0, 0, 0]), 1 - ONE),
        (Image.fromarray(davis_palette()[ONE * 7]), ONE * 7),
        (Image.fromarray(davis_palette()[TWO]), TWO),
        (coloured(TWO, BLACK, (1, 1, 1), (2, 2, 2)), TWO),
        (coloured(ONE, BLACK, WHITE), ONE * 255),
        (transparent(davis_palette()[TWO + 7], (TWO > 0) * 255), (TWO + 7) * (TWO > 0)),
        (transparent(np.zeros((*SIZE, 3)), ONE * 255), ONE * 255),
    ],
    ids=["void", "thin", "16 bits", "inverted", "grey of DAVIS", "DAVIS", "grey", "white", "transparent", "alpha"],
)
def test_maps_of_numbers_are_taken_as_they_are(image, expected, tmp_path):
    found = read_numbers(save(image, tmp_path / "numbers.png"), own_colours=False)
    np.testing.assert_array_equal(found, expected)


def test_colours_mean_numbers_in_one_picture_only(tmp_path):
    path = save(coloured(TWO, BLACK, RED, BLUE), tmp_path / "numbers.png")
    np.testing.assert_array_equal(read_numbers(path), np.array([0, 2, 1])[TWO])
    with pytest.raises(ValueError, match=r"numbers\.png must have the colours of the DAVIS palette"):
        read_numbers(path, own_colours=False)


@pytest.mark.parametrize("largest", [255, 256, 65535])
def test_written_numbers_are_read_again(largest, tmp_path):
    numbers = np.where(SQUARE, largest, DISK * 3).astype(np.uint8 if largest < 256 else np.uint16)
    picture = numbers_picture(numbers)
    assert picture.mode == ("P" if largest < 256 else "I;16")
    np.testing.assert_array_equal(read_numbers(save(picture, tmp_path / "numbers.png")), numbers)
    if largest == 256:
        np.testing.assert_array_equal(read_objects(tmp_path / "numbers.png", SIZE), numbers)
