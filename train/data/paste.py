"""Objects of one sample cut out and put onto another, as in "Simple Copy-Paste" (Ghiasi et al., CVPR 2021)."""

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from ...data.masks import OBJECT
from ...data.sources import Sample
from .augment import masks_of, put_together

__all__ = ["Paste", "paste"]

# The longer side of what is pasted, as a share of the image's shorter one.
SIZES = (0.25, 0.9)
# Other samples are tried so often for an object that can be cut out.
ATTEMPTS = 4
# A smaller thing is not worth pasting, nor is what is left of one that is covered.
FEWEST_PIXELS = 64


class Paste:
    """`paste` for `grain.MapDataset.random_map`: onto a share of the samples, objects of others of the same stream.

    Args:
      stream: the samples that objects are taken from.
      share: of the samples that something is pasted onto, 0 to 1.
    """

    def __init__(self, stream: grain.MapDataset, share: float):
        self._stream = stream
        self._share = share

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() < self._share:
            for _ in range(ATTEMPTS):
                pasted = paste(sample, self._stream[int(rng.integers(len(self._stream)))], rng)
                if pasted is not None:
                    return pasted
        return sample


def paste(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample | None:
    """The sample with the first object of the other over it, mirrored, scaled and placed at random.

    Its mask is the first of the result's; the others are the sample's own, less what is covered, the last of them left
    out. One of which too little is left gives way to the first. None if the object is too small to be cut out.
    """
    image = sample["image"]
    piece, cover = _cut_out(other["image"], masks_of(other["mask"])[0])
    if np.count_nonzero(cover >= OBJECT) < FEWEST_PIXELS:
        return None
    if rng.random() < 0.5:
        piece, cover = cv2.flip(piece, 1), cv2.flip(cover, 1)
    height, width = image.shape[:2]
    scale = rng.uniform(*SIZES) * min(height, width) / max(cover.shape)
    size = (max(1, round(cover.shape[1] * scale)), max(1, round(cover.shape[0] * scale)))
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    piece, cover = cv2.resize(piece, size, interpolation=shrinks), cv2.resize(cover, size, interpolation=shrinks)
    if np.count_nonzero(cover >= OBJECT) < FEWEST_PIXELS:
        return None
    x, y = int(rng.integers(0, width - size[0] + 1)), int(rng.integers(0, height - size[1] + 1))
    window = np.s_[y : y + size[1], x : x + size[0]]
    alpha = cover.astype(np.float32) / 255
    result, whole = image.copy(), np.zeros((height, width), np.uint8)
    result[window] = cv2.blendLinear(np.ascontiguousarray(image[window]), piece, 1 - alpha, alpha)
    whole[window] = cover
    left = [_uncovered(mask, whole) for mask in masks_of(sample["mask"])[:-1]]
    return {"image": result, "mask": put_together(sample["mask"], [whole, *left], FEWEST_PIXELS)}


def _cut_out(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"]
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], UInt8[np.ndarray, "h2 w2"]]:
    """The image and the mask in the mask's box."""
    x, y, width, height = cv2.boundingRect(mask)
    window = np.s_[y : y + height, x : x + width]
    return image[window], mask[window]


def _uncovered(mask: UInt8[np.ndarray, "h w"], cover: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    return np.round(mask * (1 - cover.astype(np.float32) / 255)).astype(np.uint8)
