"""From a photo to the model's input."""

import math
import os
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from .canvas import Fit, canvas_of

__all__ = ["Photo", "as_rgb", "normalise", "preprocess_image", "read_photo"]

Photo = np.ndarray | jax.Array | Image.Image
A = TypeVar("A", np.ndarray, jax.Array)

# ImageNet statistics, as the released models were trained with.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

# From 16 bits to 8.
SIXTEEN_BITS = 257


def read_photo(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo in a file, upright (EXIF orientation applied), as RGB.

    Raises:
      ValueError: naming the file, if it is no readable picture, or one of 32 bits with other values than whole numbers
        in [0, 255] or [0, 65535] or floats in [0, 1].
      FileNotFoundError: if there is no such file.
    """
    try:
        with Image.open(path) as image:
            return as_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "empty file" if Path(path).is_file() and not Path(path).stat().st_size else str(error)
        raise ValueError(f"{path} is not a readable picture: {reason}") from error


def as_rgb(image: Photo) -> np.ndarray:
    """The image as an (h, w, 3) array: uint8 in [0, 255] or float32 in [0, 1].

    Grayscale becomes three equal channels; transparency is dropped, as `PIL.Image.convert("RGB")` does.

    Args:
      image: a PIL image, or an array of NumPy or JAX, (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), RGB order: floats in
        [0, 1], integers of any type in [0, 255], or 16-bit photos, uint16 in [0, 65535]. No 16-bit photo that shows
        anything stays within 255, so uint16 that does is taken as [0, 255].

    Raises:
      TypeError: if it is neither.
      ValueError: on a shape, data type or value range other than the above, or an image without pixels.
    """
    if isinstance(image, Image.Image):
        image = _pil_array(image)
    elif isinstance(image, jax.Array):
        image = np.asarray(image)
    elif not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a NumPy or JAX array or a PIL image, got {type(image).__name__}")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"image must have shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), got {image.shape}")
    if 0 in image.shape:
        raise ValueError(f"image must have at least one pixel, got shape {image.shape}")
    image = _in_range(image)
    return np.broadcast_to(image, (*image.shape[:2], 3)) if image.shape[-1] == 1 else image[..., :3]


def _pil_array(image: Image.Image) -> UInt8[np.ndarray, "h w *c"]:
    """PIL would clip values of more than 8 bits at 255, and floats in [0, 1] to black, instead of scaling them."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return np.asarray(image.convert("RGB"))
    values = np.asarray(image)
    low, high = values.min(), values.max()
    are_shares = image.mode == "F" and high <= 1
    if not (low >= 0 and high <= 65535) or not (are_shares or (values == np.floor(values)).all()):
        raise ValueError(
            f"a picture of 16 or 32 bits must have whole numbers in [0, 255] or [0, 65535], or floats in [0, 1]; "
            f"got {low} to {high}"
        )
    if image.mode.startswith("I;16") or high > 255:
        values = values / SIXTEEN_BITS
    return (values * 255 if are_shares else values).round().astype(np.uint8)


def _in_range(image: np.ndarray) -> np.ndarray:
    """The image as uint8, or as float32 in [0, 1]."""
    if image.dtype == np.uint8:
        return image
    if not jnp.issubdtype(image.dtype, jnp.floating) and not np.issubdtype(image.dtype, np.integer):
        raise ValueError(f"image must be of integers or floating-point numbers, got {image.dtype}")
    low, high = image.min(), image.max()
    if jnp.issubdtype(image.dtype, jnp.floating):  # bfloat16 as well
        if not (low >= 0 and high <= 1):
            raise ValueError(f"a floating-point image must have values in [0, 1], got {low} to {high}")
        return image.astype(np.float32, copy=False)
    if image.dtype == np.uint16 and high > 255:
        return (image / SIXTEEN_BITS).round().astype(np.uint8)
    if not (low >= 0 and high <= 255):
        raise ValueError(f"an image of {image.dtype} must have values in [0, 255], got {low} to {high}")
    return image.astype(np.uint8)


def preprocess_image(
    image: Photo, size: int, box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0), fit: Fit = "squeeze"
) -> Float[np.ndarray, "{size} {size} 3"]:
    """The photo as the encoder wants it: of size x size by an antialiased bilinear filter, normalised.

    Runs on the host, so that no photo size compiles anything. PIL's float resize has the filter of torchvision's
    `Resize` on tensors, which the official predictor uses.

    Args:
      image: the photo.
      size: side of the result.
      box: the part to take: x0, y0, x1, y1, each in [0, 1] of the photo's width or height, or of its canvas's.
      fit: whether the photo is squeezed or padded to a square.

    Raises:
      TypeError, ValueError: see `as_rgb`.
    """
    rgb = as_rgb(image)
    scale = np.float32(255 if rgb.dtype == np.uint8 else 1)
    height, width = canvas_of((rgb.shape[0], rgb.shape[1]), fit)
    rows, columns = (
        _Span.of(length, start * side, stop * side, size)
        for length, side, start, stop in (
            (rgb.shape[0], height, box[1], box[3]),
            (rgb.shape[1], width, box[0], box[2]),
        )
    )
    result = np.broadcast_to(MEAN, (size, size, 3)).copy()
    if rows.cells and columns.cells:
        padding = ((0, rows.padding), (0, columns.padding))
        part = (columns.start, rows.start, columns.stop, rows.stop)
        for channel in range(3):
            plane = np.ascontiguousarray(rgb[..., channel]).astype(np.float32) / scale
            if rows.padding or columns.padding:
                plane = np.pad(plane, padding, constant_values=MEAN[channel])
            resized = Image.fromarray(plane).resize((columns.cells, rows.cells), Image.Resampling.BILINEAR, box=part)
            result[: rows.cells, : columns.cells, channel] = np.asarray(resized)
    return normalise(result)


class _Span(NamedTuple):
    """What is resized along one side, so that no more is padded than is seen.

    Attributes:
      start: first place, in pixels of the photo.
      stop: last place.
      cells: of the result; those after them show the canvas alone.
      padding: pixels to add after the photo's.
    """

    start: float
    stop: float
    cells: int
    padding: int

    @classmethod
    def of(cls, length: int, start: float, stop: float, size: int) -> "_Span":
        """Of a photo so long, the part from start to stop, which becomes `size` cells."""
        if stop <= length:
            return cls(start, stop, size, 0)
        cell = (stop - start) / size
        reach = max(cell, 1.0)  # of the filter, to either side
        cells = min(size, max(0, math.ceil((length + reach - start) / cell)))
        end = start + cells * cell
        return cls(start, end, cells, max(0, math.ceil(end + reach) - length))


def normalise(shares: A) -> A:
    """RGB in [0, 1], channels last, as the encoder wants it: ImageNet's mean and standard deviation taken off."""
    return (shares - MEAN) / STD
