"""Masks as COCO writes them."""

from types import ModuleType

import numpy as np
from jaxtyping import Bool

__all__ = ["compressed_run_lengths", "pycocotools_mask", "run_lengths"]


def pycocotools_mask() -> ModuleType:
    """The module `pycocotools.mask`.

    Raises:
      ValueError: if pycocotools is not installed.
    """
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise ValueError("coco_rle needs pycocotools: pip install 'sam2refiner_jax[coco]'") from error
    return mask


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: of the columns one after the other, how many are off, on, off, and so on."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def compressed_run_lengths(mask: Bool[np.ndarray, "h w"]) -> dict[str, list[int] | str]:
    """The same as pycocotools compresses them, in a string that JSON can hold.

    Raises:
      ValueError: if pycocotools is not installed.
    """
    encoded = pycocotools_mask().encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode()}
