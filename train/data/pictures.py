"""From files to arrays: photos, masks, and pictures whose values are the numbers of regions or objects."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ...preprocess import as_rgb
from .sources import Sample

__all__ = [
    "OBJECT",
    "EmptyMaskError",
    "decode_mask",
    "decode_photo",
    "make_sample",
    "read_bytes",
    "read_numbers",
    "read_sample",
]

# A pixel belongs to the object if the object covers half of it.
OBJECT = 128


class EmptyMaskError(ValueError):
    """A mask that shows no object."""


def read_sample(image: str | Path, mask: str | Path) -> Sample:
    """The photo and the mask in two files.

    Raises:
      ValueError: naming the file, if one cannot be read, their sizes differ, or the mask is empty.
    """
    return make_sample(
        decode_photo(read_bytes(image), image), decode_mask(read_bytes(mask), mask), str(image), str(mask)
    )


def make_sample(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "mh mw"], image_name: str, mask_name: str
) -> Sample:
    """The two as a sample.

    Raises:
      ValueError: naming the mask, if it is not as large as the image.
      EmptyMaskError: naming the mask.
    """
    if mask.shape != image.shape[:2]:
        sizes = "{} x {}".format(*mask.shape[::-1]), "{} x {}".format(*image.shape[1::-1])
        raise ValueError(f"{mask_name} must be as large as its image, {image_name}: it is {sizes[0]}, not {sizes[1]}")
    if mask.max() < OBJECT:
        raise EmptyMaskError(f"{mask_name} is empty: no pixel of it belongs to an object")
    return {"image": image, "mask": mask}


def decode_photo(data: bytes, name: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """The photo in a file's bytes: the same pixels as `read_photo` gives, JPEGs in less time.

    Args:
      data: the file's content.
      name: what messages call it.

    Raises:
      ValueError: naming the file, if it is no readable picture.
    """
    with _opened(data, name) as image:
        upright = image.getexif().get(0x0112, 1) == 1
        # OpenCV would not say that a file is cut off, and has its own idea of CMYK.
        if image.format == "JPEG" and image.mode == "RGB" and upright and data.rstrip(b"\0").endswith(b"\xff\xd9"):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if pixels is not None:
                return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels))
        ImageOps.exif_transpose(image, in_place=True)
        return np.ascontiguousarray(as_rgb(image))


def decode_mask(data: bytes, name: str | Path) -> UInt8[np.ndarray, "h w"]:
    """The mask in a file's bytes, 0 to 255.

    Masks come in many forms. Values of only 0 and 1 mean 0 and 255; 16-bit values are scaled; of a colour picture the
    brightest channel counts; of a palette picture the colours, if they are grey, else every entry but the first is the
    object.

    Args:
      data: the file's content.
      name: what messages call it.

    Raises:
      ValueError: naming the file, if it is no readable picture.
    """
    with _opened(data, name) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "P":
            return _palette_mask(image)
        if image.mode in ("1", "LA"):
            image = image.convert("L")
        if image.mode.startswith("I"):
            values = np.asarray(image)
            mask = (values / 257).round().astype(np.uint8) if values.max() > 255 else values.astype(np.uint8)
        else:
            mask = np.asarray(image) if image.mode == "L" else np.asarray(image.convert("RGB")).max(axis=-1)
    return np.where(mask, np.uint8(255), np.uint8(0)) if mask.max() == 1 else mask


def read_numbers(path: str | Path) -> Integer[np.ndarray, "h w"]:
    """The numbers in a palette or grayscale picture, such as regions or objects.

    Raises:
      ValueError: naming the file, if it is no readable picture.
    """
    with _opened(read_bytes(path), path) as image:
        if image.mode in ("P", "L") or image.mode.startswith("I"):
            return np.asarray(image)
        return np.asarray(image.convert("RGB")).max(axis=-1)


def _palette_mask(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    numbers = np.asarray(image)
    if (palette == palette[:, :1]).all():
        return palette[numbers, 0]
    return np.where(numbers, np.uint8(255), np.uint8(0))


def read_bytes(path: str | Path) -> bytes:
    """The content of a file; a ValueError names it if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def _opened(data: bytes, name: str | Path) -> Iterator[Image.Image]:
    """The picture; whatever goes wrong with it becomes a ValueError that names it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError as error:
        reason = "no picture format that is known" if data else "empty file"
        raise ValueError(f"{name} is not a readable picture: {reason}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is not a readable picture: {error}") from error
