"""What the values of pictures say of objects: the rule that `masks` states."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Integer, Num, UInt8
from PIL import Image

from ..image.preprocess import SIXTEEN_BITS

__all__ = [
    "OBJECT",
    "VOID",
    "Reading",
    "colour_numbers",
    "davis_palette",
    "grey_levels",
    "read_colours",
    "read_levels",
    "read_palette",
    "read_transparent",
    "without_void",
]

# A pixel belongs to the object if the object covers half of it.
OBJECT = 128
# White, and the number of pixels that are no object's where there are others.
VOID = 255
# Of colours that differ by no more, one may be the other after lossy compression.
SAME_SHADE = 16


class Reading(NamedTuple):
    """What a picture shows.

    Attributes:
      values: numbers of objects, 0 where there is none; or how much the only object covers each pixel, 0 to 255.
      is_cover: which of the two.
    """

    values: Integer[np.ndarray, "h w"]
    is_cover: bool


def read_transparent(rgb: UInt8[np.ndarray, "h w 3"], alpha: UInt8[np.ndarray, "h w"]) -> Reading:
    """What a picture shows of which not all can be seen."""
    seen = alpha >= OBJECT
    colours = rgb[seen]
    if (colours != colours[:1]).any():
        try:
            reading = read_colours(np.where(seen[..., None], rgb, np.uint8(0)))
        except ValueError:  # a photo that something was cut out of
            return Reading(alpha, True)
        if not reading.is_cover:
            return reading
    return Reading(alpha, True)


def read_palette(image: Image.Image) -> Reading:
    """What a palette picture shows."""
    numbers = np.asarray(image)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    greys = palette[np.minimum(np.arange(256), len(palette) - 1), 0]
    used = _levels(numbers)
    # Greys that are all the same say nothing.
    if (palette == palette[:, :1]).all() and len(np.unique(greys[used])) == len(used):
        reading = read_levels(greys[numbers])
        if reading.is_cover or set(greys[used]) <= {0, VOID}:
            return reading
    return Reading(without_void(numbers), False)


def read_colours(rgb: UInt8[np.ndarray, "h w 3"]) -> Reading:
    """What colours show; a ValueError if it can be no mask."""
    if (rgb == rgb[..., :1]).all():
        return read_levels(rgb[..., 0])
    try:
        return Reading(without_void(colour_numbers(rgb)), False)
    except ValueError:
        brightest = rgb.max(axis=-1)
        place = np.unravel_index(brightest.argmax(), brightest.shape)
        shades = brightest[..., None] / brightest[place] * rgb[place]
        if np.abs(rgb - shades).max() > SAME_SHADE:
            raise
        return Reading(brightest, True)


def read_levels(values: Integer[np.ndarray, "h w"]) -> Reading:
    """What grey levels show."""
    levels = _levels(values)
    white = VOID if levels[-1] <= VOID else VOID * SIXTEEN_BITS
    numbers = levels[(levels > 0) & (levels != white)]
    if levels[-1] > 0 and len(numbers) == 0:
        return Reading(np.where(values > 0, np.uint8(VOID), np.uint8(0)), False)
    if len(levels) == 1:
        are_numbers = levels[0] == 1  # nothing beside others says what they mean
    else:
        is_only = len(numbers) == 1 and white not in levels
        are_numbers = is_only or _make_areas(values, numbers)
    if not are_numbers:
        cover = values if white == VOID else np.minimum(np.round(values / SIXTEEN_BITS), VOID)
        return Reading(cover.astype(np.uint8), True)
    is_void = numbers[-1] <= white // 4
    return Reading(np.where(values == white, values.dtype.type(0), values) if is_void else values, False)


def grey_levels(image: Image.Image) -> Integer[np.ndarray, "h w"]:
    """The values of a picture of mode L, I, I;16 or F; of F, shares of 1 become 0 to 255."""
    values = np.asarray(image)
    if image.mode == "L":
        return values
    if image.mode == "F" and not (values == np.floor(values)).all():
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"must hold whole numbers or shares of 1, got {values.min()} to {values.max()}")
        return np.round(values * VOID).astype(np.uint8)
    if not (values.min() >= 0 and values.max() < 2**31):
        raise ValueError(f"must hold numbers from 0 to {2**31 - 1}, got {values.min()} to {values.max()}")
    return values.astype(np.uint16 if values.max() < 2**16 else np.int32)


def colour_numbers(rgb: UInt8[np.ndarray, "h w 3"], own: bool = True) -> Integer[np.ndarray, "h w"]:
    """The numbers that the colours stand for; a ValueError if they stand for none."""
    weights = np.array([1 << 16, 1 << 8, 1], np.int32)
    colours, labels = np.unique(rgb @ weights, return_inverse=True)
    labels = labels.reshape(rgb.shape[:2])
    palette = davis_palette() @ weights
    if np.isin(colours, palette).all():
        order = palette.argsort()
        return order[np.searchsorted(palette[order], colours)].astype(np.uint8)[labels]
    if (rgb == rgb[..., :1]).all():
        return rgb[..., 0]
    if not own:
        raise ValueError("must have the colours of the DAVIS palette, or be a palette or gray picture")
    first = int(colours[0] == 0)
    if len(colours) > first + 1 and not _make_areas(labels, np.arange(first, len(colours))):
        raise ValueError(f"must have one colour for each object; most of its {len(colours)} colours make no area")
    return (labels + 1 - first).astype(np.uint16 if len(colours) < 2**16 else np.int32)


def _make_areas(labels: Integer[np.ndarray, "h w"], chosen: Integer[np.ndarray, " n"]) -> bool:
    """Whether at least half of the chosen labels make areas, which those of a smoothed edge do not.

    A label does if most of its pixels have one of their label beside them, and one above or below.
    """
    beside, upright = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    same = labels[:, 1:] == labels[:, :-1]
    beside[:, 1:] |= same
    beside[:, :-1] |= same
    same = labels[1:] == labels[:-1]
    upright[1:] |= same
    upright[:-1] |= same
    pixels, inside = _counts(labels, chosen), _counts(labels, chosen, beside & upright)
    return int((2 * inside >= pixels).sum()) * 2 >= len(chosen)


def _counts(
    labels: Integer[np.ndarray, "h w"], chosen: Integer[np.ndarray, " n"], where: Bool[np.ndarray, "h w"] | None = None
) -> Num[np.ndarray, " n"]:
    """How many pixels each of the chosen labels has, of all or of some."""
    if labels.dtype == np.uint8:  # ten times as fast as NumPy
        mask = None if where is None else where.astype(np.uint8)
        return cv2.calcHist([np.ascontiguousarray(labels)], [0], mask, [256], [0, 256]).ravel()[chosen]
    found, counts = np.unique(labels if where is None else labels[where], return_counts=True)
    places = np.minimum(np.searchsorted(found, chosen), max(0, len(found) - 1))
    return np.where(found[places] == chosen, counts[places], 0) if len(found) else np.zeros(len(chosen), np.int64)


def _levels(values: Integer[np.ndarray, "h w"]) -> Integer[np.ndarray, " n"]:
    """The values that occur, in order."""
    return _counts(values, np.arange(256)).nonzero()[0] if values.dtype == np.uint8 else np.unique(values)


def without_void(numbers: Integer[np.ndarray, "h w"]) -> Integer[np.ndarray, "h w"]:
    """The numbers without `VOID`, which is an object only where it is the only number, or not the largest."""
    is_void = numbers == VOID
    has_others = bool(((numbers > 0) & ~is_void).any())
    return np.where(is_void, numbers.dtype.type(0), numbers) if has_others and numbers.max() == VOID else numbers


def davis_palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of the DAVIS and PASCAL VOC annotations: bits of the number spread over red, green and blue."""
    number = np.arange(256)[:, None]
    channels = np.arange(3)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        colours |= ((number >> channels) & 1) << (7 - bit)
        number = number >> 3
    return colours.astype(np.uint8)
