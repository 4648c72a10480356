"""A bank of textures, made once in a process, from which every surface of a scene is cut."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from ....data.files import PHOTO_SUFFIXES, files_below
from .colours import Ramp
from .fields import MAKERS, SIDE, make_field

__all__ = ["Textures", "list_photos"]

# Photos are kept at this length of their shorter side, this many of them.
PHOTO_SIDE = 384
PHOTOS_KEPT = 256
# Pixels of a field for one of a picture of 256 x 256, from and to.
ZOOM = (0.5, 3.0)

Picture = UInt8[np.ndarray, "h w 3"]


class Textures:
    """Grey fields to be coloured, and photos to be cropped.

    Args:
      seed: of the fields.
      photos: files of photos.
    """

    def __init__(self, seed: int, photos: Sequence[Path] = ()) -> None:
        self.photos = tuple(photos)
        self.pyramids = _pyramids(seed)

    def cut(self, rng: np.random.Generator, width: int, height: int, frame: int, ramp: Ramp) -> Picture:
        """A random piece of a random field, turned, zoomed and coloured; `frame` is the side of the whole picture."""
        pyramid = self.pyramids[rng.integers(len(self.pyramids))]
        step = 256 / frame * math.exp(rng.uniform(math.log(ZOOM[0]), math.log(ZOOM[1])))
        level = int(np.clip(np.floor(np.log2(step)), 0, len(pyramid) - 1))
        turn, (x, y) = rng.uniform(0, 2 * np.pi), rng.uniform(0, SIDE, 2) / 2**level
        cos, sin = np.cos(turn) * step / 2**level, np.sin(turn) * step / 2**level
        back = np.array([[cos, -sin, x], [sin, cos, y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        grey = cv2.warpAffine(pyramid[level], back, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
        # Zoomed fields lack the finest detail, which photos have at every scale.
        share = rng.uniform(0.1, 0.6)
        grain = self._grain(rng, width, height)
        grey = cv2.addWeighted(grey, 1 - share / 2, grain, share, -64 * share)
        return cv2.applyColorMap(grey, ramp)

    def _grain(self, rng: np.random.Generator, width: int, height: int) -> UInt8[np.ndarray, "height width"]:
        """A piece of a field as it is."""
        field = self.pyramids[rng.integers(len(self.pyramids))][0]
        if max(width, height) > SIDE:
            field = np.tile(field, (-(-height // SIDE), -(-width // SIDE)))
        y, x = rng.integers(0, field.shape[0] - height + 1), rng.integers(0, field.shape[1] - width + 1)
        return field[y : y + height, x : x + width]

    def crop(self, rng: np.random.Generator, width: int, height: int, least: float = 0.3) -> Picture:
        """A random crop of a random photo, at least the share `least` of what fits into it, mirrored or not."""
        photo = _read_photo(self.photos[rng.integers(len(self.photos))])
        share = rng.uniform(least, 1.0) * min(photo.shape[1] / width, photo.shape[0] / height)
        w, h = max(round(width * share), 1), max(round(height * share), 1)
        x, y = rng.integers(0, photo.shape[1] - w + 1), rng.integers(0, photo.shape[0] - h + 1)
        piece = photo[y : y + h, x : x + w]
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        interpolation = cv2.INTER_AREA if share > 1 else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(piece), (width, height), interpolation=interpolation)


def list_photos(folders: Sequence[str]) -> tuple[Path, ...]:
    """All photos in the folders and below, in order of their names.

    Raises:
      ValueError: if a folder holds none.
    """
    photos: list[Path] = []
    for folder in folders:
        found = files_below(Path(folder))
        if not found:
            raise ValueError(f"photos must be folders that hold {', '.join(PHOTO_SUFFIXES)} files, got {folder}")
        photos += found
    return tuple(photos)


@functools.lru_cache(maxsize=4)
def _pyramids(seed: int) -> tuple[tuple[UInt8[np.ndarray, "side side"], ...], ...]:
    """Each field of the bank at full, half and quarter size."""
    rng = np.random.default_rng((seed, 0x7E87))
    fields = [make_field(rng, maker) for maker, count in MAKERS for _ in range(count)]
    halved = [cv2.resize(field, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA) for field in fields]
    quartered = [cv2.resize(field, (SIDE // 4, SIDE // 4), interpolation=cv2.INTER_AREA) for field in halved]
    return tuple(zip(fields, halved, quartered, strict=True))


@functools.lru_cache(maxsize=PHOTOS_KEPT)
def _read_photo(path: Path) -> Picture:
    photo = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if photo is None:
        raise ValueError(f"photos must be readable images, got {path}")
    scale = PHOTO_SIDE / min(photo.shape[:2])
    if scale < 1:
        photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return photo
