import io

import numpy as np
import pytest
from PIL import Image

from sam2refiner_jax.data.masks import decode_mask, read_numbers
from sam2refiner_jax.data.pictures import decode_photo, read_sample
from sam2refiner_jax.image.preprocess import read_photo


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("RGB", "JPEG", {"exif": exif(6)}),
        ("RGB", "JPEG", {"exif": exif(1)}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("I;16", "PNG", {}),
    ],
)
def test_photos_are_what_the_predictor_reads(photo, tmp_path, mode, kind, options):
    small = Image.fromarray(photo[:200, :301])
    image = Image.fromarray(photo[:200, :301, 0].astype(np.uint16) * 257) if mode == "I;16" else small.convert(mode)
    path = tmp_path / "photo"
    path.write_bytes(encode(image, kind, **options))
    np.testing.assert_array_equal(decode_photo(path.read_bytes(), path), read_photo(path))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_cut_off_files_are_named(photo, kind, kept):
    data = encode(Image.fromarray(photo[:200, :300]), kind)
    cut = data[: kept if isinstance(kept, int) else int(kept * len(data))]
    with pytest.raises(ValueError, match=r"some.file is not a readable picture"):
        decode_photo(cut, "some.file")
    with pytest.raises(ValueError, match=r"some.file is not a readable picture"):
        decode_mask(cut, "some.file")


GREY = np.array([[0, 60, 255], [0, 255, 200]], np.uint8)
HARD = np.array([[0, 255, 255], [0, 255, 0]], np.uint8)


def palette_picture(numbers: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8)).convert("L")
    image = Image.fromarray(np.asarray(image), "P")
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(HARD // 255), HARD),
        (Image.fromarray(HARD > 0), HARD),
        (Image.fromarray(np.stack([GREY] * 3, -1)), GREY),
        (Image.fromarray(np.stack([HARD, HARD * 0, HARD * 0], -1)), HARD),
        (Image.fromarray(np.stack([GREY] * 3 + [GREY * 0 + 255], -1)), GREY),
        (Image.fromarray(np.stack([GREY, GREY * 0 + 255], -1)), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        (palette_picture(HARD // 255, [0, 0, 0, 255, 255, 255]), HARD),
        (palette_picture(1 - HARD // 255, [255, 255, 255, 0, 0, 0]), HARD),
        (palette_picture(HARD // 255 * 2, [0, 0, 0, 128, 0, 0, 0, 128, 0]), HARD),
    ],
    ids=["gray", "0-1", "bits", "rgb", "red", "rgba", "la", "16-bit", "palette", "inverted", "coloured-palette"],
)
def test_masks_of_every_form(image, expected):
    np.testing.assert_array_equal(decode_mask(encode(image, "PNG"), "mask.png"), expected)


def test_numbers_of_regions_and_objects(tmp_path):
    numbers = np.array([[0, 1, 300], [7, 7, 2]], np.uint16)
    Image.fromarray(numbers).save(tmp_path / "regions.png")
    np.testing.assert_array_equal(read_numbers(tmp_path / "regions.png"), numbers)
    palette_picture(numbers % 256, [0, 0, 0] * 256).save(tmp_path / "objects.png")
    np.testing.assert_array_equal(read_numbers(tmp_path / "objects.png"), numbers % 256)
    Image.fromarray(np.stack([HARD] * 3 + [HARD * 0 + 255], -1)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_numbers(tmp_path / "rgba.png"), HARD)


def test_bad_pairs_are_named(tmp_path, write_pair):
    image, mask = write_pair(tmp_path / "a.jpg", tmp_path / "a.png", seed=0, height=40, width=60)
    assert read_sample(image, mask)["mask"].max() == 255
    for wrong, message in [
        (Image.new("L", (60, 41), 255), rf"{mask} must be as large as its image, {image}: it is 60 x 41, not 60 x 40"),
        (Image.new("L", (60, 40), 127), rf"{mask} is empty: no pixel of it belongs to an object"),
    ]:
        wrong.save(mask)
        with pytest.raises(ValueError, match=message):
            read_sample(image, mask)
    mask.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=rf"{mask} is not a readable picture: no picture format that is known"):
        read_sample(image, mask)
    mask.unlink()
    with pytest.raises(ValueError, match=rf"{mask} cannot be read: No such file"):
        read_sample(image, mask)
