"""Clips as training data: what a source of clips is, and clips that lie on disk in any of the usual layouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt8

from .clips import ANNOTATED, ANNOTATIONS, IMAGES, RESOLUTION, Clip
from .files import files_in, folders_in, read_bytes
from .folders import require_folder
from .masks import read_numbers
from .pictures import decode_photo
from .sources import Sample, register_source

__all__ = ["ClipSample", "Clips", "ClipsOnDisk", "frame_order"]

# Folders of frames, those of their masks beside them, and how their data sets are called.
LAYOUTS = (
    (IMAGES, ANNOTATIONS, "YouTube-VOS, MOSE, LVOS"),
    (f"{IMAGES}/{RESOLUTION}", f"{ANNOTATIONS}/{RESOLUTION}", "DAVIS"),
    ("JPEGImages_24fps", "Annotations_6fps", "SA-V's validation and test sets"),
    ("frames", "masks", "any clips"),
    ("images", "masks", "any clips"),
)
# Parts of a clip that are tried until one begins with an object.
TRIES = 20


class ClipSample(TypedDict):
    """Frames of a clip and the masks of objects in it.

    Attributes:
      image: RGB.
      mask: how much of each pixel each object covers, 0 to 255. Every object is in the first frame.
    """

    image: UInt8[np.ndarray, "t h w 3"]
    mask: UInt8[np.ndarray, "t h w n"]


@runtime_checkable
class Clips(Protocol):
    """A source of images (`Source`) that are first frames of clips, each of which it can give."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def name_of(self, index: int) -> str: ...

    def clip(self, index: int, frames: int, objects: int, rng: np.random.Generator, *, reverse: bool) -> ClipSample:
        """Frames of the clip `index` and up to `objects` of its objects; raises a ValueError that names a bad file.

        Args:
          index: of the clip.
          frames: how many.
          objects: how many at most; there is always one.
          rng: the only source of randomness.
          reverse: whether the clip is played backwards.
        """
        ...


def frame_order(count: int, frames: int, step: int, start: int) -> list[int]:
    """Which of a clip's `count` frames are shown: every `step`-th from `start`, at the ends back and forth."""
    around = max(2 * (count - 1), 1)
    places = [(start + step * i) % around for i in range(frames)]
    return [min(place, around - place) if count > 1 else 0 for place in places]


@register_source("clips")
class ClipsOnDisk:
    """Clips as DAVIS, LVOS, YouTube-VOS, MOSE and SA-V (validation, test) lay them out, or any like them.

    There is a folder of frames and a folder of masks for each clip, within two folders whose names say the layout:
    `JPEGImages` and `Annotations` (with `480p` between, as in DAVIS, or without), `JPEGImages_24fps` and
    `Annotations_6fps`, `frames` or `images` and `masks`. A mask's values are numbers of objects; or a clip has a folder
    for each of its objects, with black and white masks, as SA-V. Frames without a mask, as most of YouTube-VOS, are
    passed over.

    Args:
      location: the folder that holds the two folders.
      clips: the clips to take; all by default.
      exclude: clips to leave out.
      step: at most so many annotated frames from one that is shown to the next; how many is drawn for each clip.

    Raises:
      ValueError: if the folder is not laid out like this, a clip is not there, or `step` is not positive.
    """

    def __init__(self, location: str, clips: tuple[str, ...] = (), exclude: tuple[str, ...] = (), step: int = 1):
        if step < 1:
            raise ValueError(f"step must be at least 1, got {step}")
        folder = require_folder(location)
        images, annotations = _find(folder)
        found = [path.name for path in folders_in(images)]
        unknown = sorted({*clips, *exclude} - {*found})
        if unknown:
            raise ValueError(f"clips and exclude must name clips in {images}, got {', '.join(unknown)}")
        self.step = step
        self.clips: list[Clip] = []
        self.frames: list[tuple[str, ...]] = []
        self.problems: tuple[str, ...] = ()
        for name in found:
            if name in exclude or (clips and name not in clips):
                continue
            clip = _Separate(name, images / name, annotations / name)
            frames = clip.annotated()
            if frames:
                self.clips.append(clip)
                self.frames.append(frames)
            else:
                self.problems += (f"clip {name} has no frame in {clip.frames} with a mask in {clip.annotations}",)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        """The first frame with an object, and the first object in it."""
        clip = self.clips[index]
        for frame in self.frames[index]:
            numbers = clip.numbers(frame)
            if numbers.any():
                first = int(numbers[numbers > 0].min())
                return {"image": _photo(clip, frame, numbers), "mask": _cover(numbers, first)}
        raise ValueError(f"clip {clip.name} in {clip.annotations} must show at least one object, got none")

    def clip(self, index: int, frames: int, objects: int, rng: np.random.Generator, *, reverse: bool) -> ClipSample:
        clip, names = self.clips[index], self.frames[index]
        names = names[::-1] if reverse else names
        for start in self._starts(len(names), frames, rng):
            order = [names[place] for place in frame_order(len(names), frames, *start)]
            numbers = clip.numbers(order[0])
            there = np.bincount(numbers.ravel())[1:].nonzero()[0] + 1
            if len(there):
                break
        else:
            raise ValueError(f"clip {clip.name} in {clip.annotations} must show objects in most frames, got few")
        chosen = sorted(rng.permutation(there)[:objects])
        maps = {name: clip.numbers(name) for name in dict.fromkeys(order)}
        photos = {name: _photo(clip, name, maps[name]) for name in maps}
        sizes = {photo.shape[:2] for photo in photos.values()}
        if len(sizes) > 1:
            raise ValueError(f"the frames of a clip must be of one size, those in {clip.frames} have {sorted(sizes)}")
        masks = [np.stack([_cover(maps[name], int(n)) for n in chosen], axis=-1) for name in order]
        return {"image": np.stack([photos[name] for name in order]), "mask": np.stack(masks)}

    def _starts(self, count: int, frames: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
        """Steps, and frames to start from, so that the clip need not be played back where it is long enough."""
        for _ in range(TRIES):
            step = int(rng.integers(1, self.step + 1))
            while step > 1 and (frames - 1) * step >= count:
                step -= 1
            yield step, int(rng.integers(max(1, count - (frames - 1) * step)))
        for start in range(count):
            yield 1, start

    def name_of(self, index: int) -> str:
        return f"clip {self.clips[index].name}"


class _Separate(Clip):
    """A clip whose objects may be in folders of their own."""

    def annotated(self) -> tuple[str, ...]:
        """The frames that have masks, in order."""
        if not self.annotations.is_dir() or not self.frames.is_dir():
            return ()
        folders = folders_in(self.annotations) or [self.annotations]
        masks = {path.stem for folder in folders for path in files_in(folder, ANNOTATED)}
        return tuple(name for name in self.frame_names() if name in masks)

    def numbers(self, frame: str) -> Integer[np.ndarray, "h w"]:
        folders = folders_in(self.annotations)
        if not folders:
            return super().numbers(frame)
        numbers = None
        for number, folder in enumerate(folders, start=1):
            path = folder / f"{frame}.png"
            if not path.exists():
                continue
            mask = read_numbers(path) > 0
            numbers = np.zeros(mask.shape, np.int32) if numbers is None else numbers
            if mask.shape != numbers.shape:
                raise ValueError(f"{path} must be as large as the masks of the clip's other objects")
            numbers[mask] = number
        assert numbers is not None
        return numbers


def _find(folder: Path) -> tuple[Path, Path]:
    for images, annotations, _ in reversed(LAYOUTS):  # what is inside another one first
        if (folder / images).is_dir() and (folder / annotations).is_dir():
            return folder / images, folder / annotations
    known = "; ".join(f"{images} and {annotations} ({what})" for images, annotations, what in LAYOUTS)
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise ValueError(f"{folder} must hold two folders with a folder for each clip: {known}; found {found}")


def _cover(numbers: Integer[np.ndarray, "h w"], number: int) -> UInt8[np.ndarray, "h w"]:
    return np.where(numbers == number, np.uint8(255), np.uint8(0))


def _photo(clip: Clip, frame: str, numbers: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    path = next(path for path in files_in(clip.frames) if path.stem == frame)
    photo = decode_photo(read_bytes(path), path)
    if photo.shape[:2] != numbers.shape:
        raise ValueError(
            f"the mask of {path} must be as large as it: it is {numbers.shape[1]} x {numbers.shape[0]}, not "
            f"{photo.shape[1]} x {photo.shape[0]}"
        )
    return photo
