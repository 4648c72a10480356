"""From files to samples: photos with masks."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ImageOps

from ..image.preprocess import as_rgb
from .files import open_picture, read_bytes
from .masks import decode_mask, require_object
from .sources import Sample

__all__ = ["decode_photo", "make_sample", "read_sample"]


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
    require_object(mask, mask_name)
    return {"image": image, "mask": mask}


def decode_photo(data: bytes, name: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """The photo in a file's bytes: the same pixels as `read_photo` gives, JPEGs in less time.

    Args:
      data: the file's content.
      name: what messages call it.

    Raises:
      ValueError: naming the file, if it is no readable picture.
    """
    with open_picture(data, name) as image:
        upright = image.getexif().get(0x0112, 1) == 1
        # OpenCV would not say that a file is cut off, and has its own idea of CMYK.
        if image.format == "JPEG" and image.mode == "RGB" and upright and data.rstrip(b"\0").endswith(b"\xff\xd9"):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if pixels is not None:
                return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels))
        ImageOps.exif_transpose(image, in_place=True)
        return np.ascontiguousarray(as_rgb(image))
