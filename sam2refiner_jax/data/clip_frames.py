"""Frames of video clips with the masks of their objects, laid out as DAVIS does it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .clips import ANNOTATED, ANNOTATIONS, IMAGES, RESOLUTION
from .files import files_in, folders_in, read_bytes
from .folders import require_folder
from .masks import VOID, read_numbers
from .pictures import decode_photo, make_sample
from .sources import Sample, register_source

__all__ = ["ClipSource", "FrameObject"]


class FrameObject(NamedTuple):
    """One object in one frame.

    Attributes:
      image: the file of the frame.
      annotation: the file in which each pixel has the number of its object, 0 for none.
      number: the object's; 255 is the only object of a black and white mask.
    """

    image: str
    annotation: str
    number: int


@register_source("davis")
class ClipSource:
    """One sample for each object of each frame that it is seen in.

    Frames are `JPEGImages/480p/CLIP/00000.jpg`, masks `Annotations/480p/CLIP/00000.png`: every number but 0 is an
    object, 255 only where a clip has no other number, or larger ones. All masks taken are read once, now, since only
    they say which objects a frame shows.

    Args:
      location: the folder that holds `JPEGImages` and `Annotations`.
      clips: the clips to take; all by default.
      exclude: clips to leave out.
      every: take each clip's first frame and every so many-th after it.
      resolution: the folder between `JPEGImages` and the clips; "" for none, as in YouTube-VOS.

    Raises:
      ValueError: if the folder is not laid out like this, a clip is not there, or `every` is not positive.
    """

    def __init__(
        self,
        location: str,
        clips: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        every: int = 1,
        resolution: str = RESOLUTION,
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        folder = require_folder(location)
        images, annotations = folder / IMAGES / resolution, folder / ANNOTATIONS / resolution
        for expected in (images, annotations):
            if not expected.is_dir():
                raise ValueError(f"{folder} must be laid out as DAVIS; there is no {expected}")
        found = [path.name for path in folders_in(images)]
        unknown = sorted({*clips, *exclude} - {*found})
        if unknown:
            raise ValueError(f"clips and exclude must name clips in {images}, got {', '.join(unknown)}")
        names = [name for name in found if name in (clips or found) and name not in exclude]
        problems: list[str] = []
        objects: list[FrameObject] = []
        frames = [pair for name in names for pair in _frames_of(images / name, annotations / name, every, problems)]
        with ThreadPoolExecutor() as threads:
            for seen in threads.map(_objects_of, frames):
                if isinstance(seen, str):
                    problems.append(seen)
                else:
                    objects.extend(seen)
        numbers_of: dict[Path, set[int]] = {}
        for one in objects:
            numbers_of.setdefault(Path(one.annotation).parent, set()).add(one.number)
        has_void = {clip for clip, numbers in numbers_of.items() if len(numbers) > 1 and max(numbers) == VOID}
        self.objects = tuple(
            one for one in objects if one.number != VOID or Path(one.annotation).parent not in has_void
        )
        self.problems = tuple(problems)

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> Sample:
        """The sample; a ValueError names the file that cannot be read or is of another size."""
        one = self.objects[index]
        mask = np.where(read_numbers(one.annotation) == one.number, np.uint8(255), np.uint8(0))
        return make_sample(decode_photo(read_bytes(one.image), one.image), mask, one.image, one.annotation)

    def name_of(self, index: int) -> str:
        one = self.objects[index]
        path = Path(one.annotation)
        return f"{path.parent.name}/{path.stem} object {one.number}"


def _frames_of(images: Path, annotations: Path, every: int, problems: list[str]) -> list[tuple[Path, Path]]:
    """Every so many-th frame of a clip with its mask; adds to the problems what is without the other."""
    frames = files_in(images, (".jpg", ".jpeg"))
    masks = {path.stem: path for path in (files_in(annotations, ANNOTATED) if annotations.is_dir() else ())}
    missing = [path for path in frames if path.stem not in masks]
    problems.extend(f"{path} has no mask: expected {annotations / path.stem}.png" for path in missing)
    stems = {path.stem for path in frames}
    problems.extend(
        f"{path} has no image: expected {images / stem}.jpg" for stem, path in masks.items() if stem not in stems
    )
    return [(path, masks[path.stem]) for path in frames[::every] if path.stem in masks]


def _objects_of(frame: tuple[Path, Path]) -> list[FrameObject] | str:
    """The objects that a frame shows, or what is wrong with its mask."""
    image, annotation = frame
    try:
        numbers = read_numbers(annotation)
    except ValueError as error:
        return str(error)
    return [FrameObject(str(image), str(annotation), int(n)) for n in np.bincount(numbers.ravel()).nonzero()[0] if n]
