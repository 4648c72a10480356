"""Masks and maps of objects in pictures of every form, and how maps are written.

One rule for all that read them. Black, 0 and what is transparent are no object. The values of a picture are the numbers
of objects, or they are how much one object covers each pixel:

- Palette pictures hold numbers, unless the palette is of greys that make a mask in black and white or a soft one.
- Grey levels (8, 16 or 32 bits, floating point) are numbers where there is only one besides 0, or where most of them
  make areas: 0 and 1, 0 and 255, 0 to 5. Levels that are only seen along edges are those of a smoothed or compressed
  mask: the object is where they reach half of white.
- Of pictures in colour, the colours are numbers: those of the DAVIS palette as it numbers them, others in the order of
  their values. Shades of one colour are read as grey levels.
- Transparency is the mask where colour says nothing: what can be seen is of one colour, or a photo. An opaque picture's
  is ignored.
- 255 (65535 in 16 bits) beside other numbers is void, as in DAVIS and PASCAL VOC, and no object; of grey levels, only
  beside numbers below 64 (16384): brighter ones were chosen to be seen, and so was 255.

A file that is known to be a map of numbers, as annotations of videos and regions are, is read by `read_numbers`, which
takes every grey level for a number and leaves void to its caller.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, ImageOps

from .files import open_picture, read_bytes
from .mask_forms import (
    OBJECT,
    VOID,
    Reading,
    colour_numbers,
    davis_palette,
    grey_levels,
    read_colours,
    read_levels,
    read_palette,
    read_transparent,
    without_void,
)

__all__ = [
    "OBJECT",
    "VOID",
    "EmptyMaskError",
    "davis_palette",
    "decode_mask",
    "numbers_picture",
    "read_mask",
    "read_numbers",
    "read_objects",
    "require_object",
    "without_void",
]


# The largest number of an object, which 16 bits hold.
MOST = 65535


class EmptyMaskError(ValueError):
    """A mask that shows no object."""


def read_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask in a file, of all objects together if there are several.

    Args:
      path: of the picture.
      size: height and width of the photo that it is a mask of.

    Raises:
      ValueError: naming the file, if it is no readable picture, of another size, no mask, or empty (`EmptyMaskError`).
    """
    cover = _cover(_read(read_bytes(path), path, ("photo", size)))
    require_object(cover, path)
    return cover >= OBJECT


def decode_mask(data: bytes, name: str | Path) -> UInt8[np.ndarray, "h w"]:
    """The mask in a file's bytes as how much objects cover each pixel, 0 to 255.

    Args:
      data: the file's content.
      name: what messages call it.

    Raises:
      ValueError: naming the file, if it is no readable picture or no mask.
    """
    return _cover(_read(data, name))


def read_objects(path: Path, size: tuple[int, int], of: str = "video") -> Integer[np.ndarray, "h w"]:
    """The number of the object at each pixel, 0 where there is none; the only object of a white mask is 255.

    Args:
      path: of the picture.
      size: height and width of the video that it is of.
      of: what messages call that.

    Raises:
      ValueError: naming the file, if it is no readable picture, of another size, no mask, or empty (`EmptyMaskError`),
        or has numbers above 65535.
    """
    values, is_cover = reading = _read(read_bytes(path), path, (of, size))
    require_object(_cover(reading), path)
    if values.max() > MOST:
        raise ValueError(f"{path} must have numbers up to {MOST}, got {values.max()}")
    return np.where(values >= OBJECT, np.uint8(VOID), np.uint8(0)) if is_cover else values


def read_numbers(path: str | Path, *, own_colours: bool = True) -> Integer[np.ndarray, "h w"]:
    """The numbers in a picture that is known to hold them, such as regions or the objects of a video.

    Args:
      path: of the picture.
      own_colours: whether colours beyond the DAVIS palette are taken. Their numbers mean nothing in another picture.

    Raises:
      ValueError: naming the file, if it is no readable picture or holds no numbers.
    """
    image, alpha = _open(read_bytes(path), path)
    try:
        if image.mode == "P":
            return np.asarray(image)
        if image.mode != "RGB":
            return grey_levels(image)
        rgb = np.asarray(image)
        if alpha is not None:
            seen = (alpha >= OBJECT)[..., None]
            rgb = seen * (rgb if (seen * rgb).any() else np.full_like(rgb, VOID))
        return colour_numbers(rgb, own_colours)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def require_object(cover: UInt8[np.ndarray, "*shape"], name: str | Path) -> None:
    """Raises an `EmptyMaskError` that names the mask if no pixel of it belongs to an object."""
    largest = int(cover.max())
    if largest < OBJECT:
        raise EmptyMaskError(
            f"{name} is empty: no pixel of it belongs to an object; the largest value is {largest}"
            + (f", and where an object is it is at least {OBJECT}" if largest else "")
        )


def numbers_picture(numbers: Integer[np.ndarray, "h w"]) -> Image.Image:
    """A map of objects as DAVIS has them: a palette picture, or 16-bit gray of numbers that have more than 8 bits."""
    if numbers.dtype.itemsize > 1:
        return Image.fromarray(numbers.astype(np.uint16))
    picture = Image.fromarray(numbers.astype(np.uint8))
    picture.putpalette(davis_palette().tobytes())
    return picture


def _cover(reading: Reading) -> UInt8[np.ndarray, "h w"]:
    """How much objects cover each pixel, 0 to 255."""
    return reading.values if reading.is_cover else np.where(reading.values > 0, np.uint8(255), np.uint8(0))


def _read(data: bytes, name: str | Path, of: tuple[str, tuple[int, int]] | None = None) -> Reading:
    """What a picture shows, by the rule above; a ValueError names it, also if it is not as large as what it is of."""
    image, alpha = _open(data, name)
    if of and image.size != of[1][::-1]:
        expected = "{1} x {0}".format(*of[1])
        raise ValueError(f"mask {name} is {image.width} x {image.height} pixels, the {of[0]} {expected}")
    try:
        if alpha is not None:
            return read_transparent(np.asarray(image), alpha)
        if image.mode == "P":
            return read_palette(image)
        if image.mode == "RGB":
            return read_colours(np.asarray(image))
        return read_levels(grey_levels(image))
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _open(data: bytes, name: str | Path) -> tuple[Image.Image, UInt8[np.ndarray, "h w"] | None]:
    """The picture upright, of mode P, L, I, I;16, F or RGB, and its transparency if it has any (then of mode RGB)."""
    with open_picture(data, name) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        rgba = np.asarray(image.convert("RGBA"))
        alpha = rgba[..., 3]
        # Evenly transparent is no mask either, but what nobody can see is empty.
        return Image.fromarray(rgba[..., :3]), None if alpha.min() == alpha.max() > 0 else alpha
    if image.mode == "1":
        return image.convert("L"), None
    return image if image.mode in ("P", "L", "F") or image.mode.startswith("I") else image.convert("RGB"), None
