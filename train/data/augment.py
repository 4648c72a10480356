"""From a sample of any size to the model's square input: squeezed, or mirrored and jittered in scale."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ...data.clip_sources import ClipSample
from ...data.masks import OBJECT
from ...data.sources import Sample
from ..config import AugmentConfig

__all__ = ["augment", "augment_clip", "change_colours", "masks_of", "put_together", "resize", "squeeze"]

# What is beside an image that is smaller than the input, as in HQ-SAM.
PADDING = 128
# A jittered object must keep this many pixels of a 1024-pixel input, or another jitter is drawn, so many times at most.
OBJECT_PIXELS = 64
ATTEMPTS = 8


class Window(NamedTuple):
    """A part of an image, in whole pixels of it, and the size it is resized to."""

    y: int
    x: int
    height: int
    width: int
    new_height: int
    new_width: int


# Draws a window, given an image's height and width and the size of the result.
Draw = Callable[[int, int, int, np.random.Generator], Window]


def squeeze(sample: Sample, size: int) -> Sample:
    """The sample squeezed to size x size, its sides' proportion ignored, as the predictor does.

    An object too thin for the new pixels still has those that it touches.
    """
    masks = [_squeeze_mask(mask, size) for mask in masks_of(sample["mask"])]
    return {"image": resize(sample["image"], size, size), "mask": put_together(sample["mask"], masks)}


def _squeeze_mask(mask: UInt8[np.ndarray, "h w"], size: int) -> UInt8[np.ndarray, "{size} {size}"]:
    squeezed = resize(mask, size, size)
    if squeezed.max() >= OBJECT:
        return squeezed
    y, x = np.nonzero(mask >= OBJECT)
    squeezed = squeezed.copy()
    squeezed[y * size // mask.shape[0], x * size // mask.shape[1]] = 255
    return squeezed


def masks_of(mask: UInt8[np.ndarray, "h w *n"]) -> list[UInt8[np.ndarray, "h w"]]:
    """The mask of each object."""
    return [mask] if mask.ndim == 2 else [np.ascontiguousarray(mask[..., i]) for i in range(mask.shape[2])]


def put_together(
    mask: UInt8[np.ndarray, "h w *n"], masks: list[UInt8[np.ndarray, "h2 w2"]], enough: int | float = 0
) -> UInt8[np.ndarray, "h2 w2 *n"]:
    """The masks of objects put together as those of `mask` are; too small ones, the first instead."""
    if mask.ndim == 2:
        return masks[0]
    kept = (each if np.count_nonzero(each >= OBJECT) >= enough else masks[0] for each in masks[1:])
    return np.stack([masks[0], *kept], axis=-1)


def augment(sample: Sample, size: int, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """The sample at size x size, mirrored and jittered at random; image and mask alike.

    An image whose object no jitter keeps is squeezed instead, so that every result has an object. Of several objects it
    is the first that counts; it takes the place of others that are lost.

    Args:
      sample: the sample.
      size: side of the result.
      config: what may happen.
      rng: the only source of randomness.
    """
    flip = config.flip and rng.random() < 0.5
    if flip:
        sample = {"image": cv2.flip(sample["image"], 1), "mask": np.fliplr(sample["mask"])}
    if config.rotate:
        sample = _rotate(sample, rng.uniform(-config.rotate, config.rotate))
    draw = _draw_by(config, rng)
    result = (draw and _cut(sample, size, draw, rng)) or squeeze(sample, size)
    if config.colour:
        result["image"] = change_colours(result["image"], config.colour, rng)
    return result


def augment_clip(clip: ClipSample, size: int, config: AugmentConfig, rng: np.random.Generator) -> ClipSample:
    """The clip at size x size; the same happens to all of its frames.

    Objects of which too little is left in the first frame have empty masks. A clip that no jitter leaves an object is
    squeezed instead. What `augment` does is drawn from the first frame and its first object.

    Args:
      clip: the clip.
      size: side of the result.
      config: what may happen.
      rng: the only source of randomness.
    """
    images, masks = clip["image"], clip["mask"]
    if config.flip and rng.random() < 0.5:
        images, masks = images[:, :, ::-1], masks[:, :, ::-1]
    if config.rotate:
        degrees = rng.uniform(-config.rotate, config.rotate)
        turned = [_rotate({"image": i, "mask": m}, degrees, always=True) for i, m in zip(images, masks, strict=True)]
        if any(mask.max() >= OBJECT for mask in masks_of(turned[0]["mask"])):
            images, masks = (np.stack([frame[name] for frame in turned]) for name in ("image", "mask"))
    first = np.ascontiguousarray(masks[0, ..., 0])
    draw = _draw_by(config, rng)
    height, width = first.shape
    whole = Window(0, 0, height, width, size, size)
    window = (draw and _draw_kept(first, size, draw, rng)) or whole
    cut = [_paste(_part(np.ascontiguousarray(image), window), size, PADDING) for image in images]
    covers = [[_paste(_part(mask, window), size, 0) for mask in masks_of(frame)] for frame in masks]
    for place, mask in enumerate(masks_of(masks[0])):
        if np.count_nonzero(covers[0][place] >= OBJECT) < _enough(size):
            # The only object of a clip that was squeezed whole is there, however thin.
            keep = place == 0 and window == whole
            covers[0][place] = _squeeze_mask(mask, size) if keep else covers[0][place]
            for frame in covers if not keep else ():
                frame[place] = np.zeros((size, size), np.uint8)
    if config.colour:
        seed = int(rng.integers(2**32))
        cut = [change_colours(image, config.colour, np.random.default_rng(seed)) for image in cut]
    return {"image": np.stack(cut), "mask": np.stack([np.stack(frame, axis=-1) for frame in covers])}


def _rotate(sample: Sample, degrees: float, *, always: bool = False) -> Sample:
    """The sample turned about its centre, in its own frame; unless `always`, not if nothing of its object were left."""
    image, masks = sample["image"], masks_of(sample["mask"])
    height, width = masks[0].shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)

    def turned(picture):
        return cv2.warpAffine(np.ascontiguousarray(picture), turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)

    first, *others = [turned(mask) for mask in masks]
    if always:
        return {"image": turned(image), "mask": np.stack([first, *others], axis=-1)}
    if first.max() < OBJECT:
        return sample
    return {"image": turned(image), "mask": put_together(sample["mask"], [first, *others], enough=1)}


def change_colours(
    image: UInt8[np.ndarray, "h w 3"], strength: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its channels, brightness, contrast and saturation each changed by up to `strength` of itself."""
    brightness, contrast, saturation, *channels = rng.uniform(1 - strength, 1 + strength, 6).astype(np.float32)
    # All of it is linear: a matrix on (r, g, b), and a shift that leaves the mean brightness to `brightness`.
    to_grey = np.full((3, 3), 1 / 3, np.float32)
    matrix = (saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * to_grey) @ np.diag(channels)
    mean = matrix @ np.array(cv2.mean(image)[:3], np.float32)
    matrix = brightness * np.column_stack([contrast * matrix, (1 - contrast) * mean])
    return cv2.transform(image, matrix)


def resize(picture: UInt8[np.ndarray, "h w *c"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width} *c"]:
    """The picture resized with the antialiased bilinear filter of `preprocess_image`, to within rounding."""
    if height >= picture.shape[0] and width >= picture.shape[1]:  # Nothing to antialias; OpenCV is ten times faster.
        return cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def _cut(sample: Sample, size: int, draw: Draw, rng: np.random.Generator) -> Sample | None:
    """The part of the sample in a window that `draw` draws, or None if the object is lost in every attempt."""
    masks = masks_of(sample["mask"])
    window = _draw_kept(masks[0], size, draw, rng)
    if window is None:
        return None
    cut = [_paste(_part(mask, window), size, 0) for mask in masks]
    image = _paste(_part(sample["image"], window), size, PADDING)
    return {"image": image, "mask": put_together(sample["mask"], cut, _enough(size))}


def _draw_by(config: AugmentConfig, rng: np.random.Generator) -> Draw | None:
    """How windows of an image are drawn; None to take it whole."""
    if config.squeeze and rng.random() < config.squeeze:
        return _draw_part
    return functools.partial(_draw_window, scales=config.jitter) if config.jitter else None


def _draw_kept(
    mask: UInt8[np.ndarray, "h w"],
    size: int,
    draw: Draw,
    rng: np.random.Generator,
) -> Window | None:
    """A window that enough of the object is in, or None if it is lost in every attempt."""
    for _ in range(ATTEMPTS):
        window = draw(mask.shape[0], mask.shape[1], size, rng)
        if np.count_nonzero(_part(mask, window) >= OBJECT) >= _enough(size):
            return window
    return None


def _enough(size: int) -> float:
    """So many pixels of an object must be left."""
    return max(1.0, OBJECT_PIXELS * (size / 1024) ** 2)


def _draw_window(
    height: int, width: int, size: int, rng: np.random.Generator, *, scales: tuple[float, float]
) -> Window:
    """Large-scale jitter as HQ-SAM has it: the image's longer side becomes some multiple of the input's.

    Source: https://github.com/SysCV/sam-hq, train/utils/dataloader.py, LargeScaleJitter. There, images are scaled and
    then cropped; here, the part that will be seen is cut out before it is scaled.
    """
    zoom = rng.uniform(*scales) * size / max(height, width)

    def along(side: int) -> tuple[int, int, int]:
        if side * zoom <= size:
            return 0, side, max(1, round(side * zoom))
        part = max(1, round(size / zoom))
        return int(rng.integers(0, side - part + 1)), part, size

    y, part_height, new_height = along(height)
    x, part_width, new_width = along(width)
    return Window(y, x, part_height, part_width, new_height, new_width)


def _draw_part(height: int, width: int, size: int, rng: np.random.Generator) -> Window:
    """A window of at least half of the image's height and width, to fill the whole input."""
    part_height, part_width = (max(1, round(side * rng.uniform(0.5, 1))) for side in (height, width))
    y, x = int(rng.integers(0, height - part_height + 1)), int(rng.integers(0, width - part_width + 1))
    return Window(y, x, part_height, part_width, size, size)


def _part(picture: UInt8[np.ndarray, "h w *c"], window: Window) -> UInt8[np.ndarray, "..."]:
    part = picture[window.y : window.y + window.height, window.x : window.x + window.width]
    return resize(part, window.new_height, window.new_width)


def _paste(picture: UInt8[np.ndarray, "h w *c"], size: int, padding: int) -> UInt8[np.ndarray, "..."]:
    """The picture in the upper left corner of a square."""
    if picture.shape[:2] == (size, size):
        return picture
    square = np.full((size, size, *picture.shape[2:]), padding, np.uint8)
    square[: picture.shape[0], : picture.shape[1]] = picture
    return square
