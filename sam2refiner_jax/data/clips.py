"""Videos with true masks on disk: the layouts of DAVIS 2016 and 2017 and of LVOS v1 and v2."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Bool, Integer

from ..video.frames import frame_paths
from .files import PHOTO_SUFFIXES, file_named, files_in, folders_in
from .masks import VOID, read_numbers, without_void

__all__ = ["Clip", "Layout", "VideoObject", "find_layout", "open_clips", "read_names"]

Layout = Literal["davis", "lvos"]

IMAGES, ANNOTATIONS = "JPEGImages", "Annotations"
ANNOTATED = (".png",)
# DAVIS keeps them in a folder for each resolution; evaluation is at 480 lines.
RESOLUTION = "480p"
# LVOS annotates every fifth frame of its numbering, and names frames by eight digits.
LVOS_STEP = 5


@dataclasses.dataclass(frozen=True)
class VideoObject:
    """An object in a clip.

    Attributes:
      number: in the annotations.
      first: the frame where it is first seen, and prompted.
      scored: the frames that count.
    """

    number: int
    first: str
    scored: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video with true masks.

    Attributes:
      name: of the clip.
      frames: the folder of its JPEGs.
      annotations: the folder of its PNGs.
      spans: of LVOS, each object's first, last and number of frames.
    """

    name: str
    frames: Path
    annotations: Path
    spans: dict[int, tuple[int, int, int]] | None = None

    def frame_names(self) -> list[str]:
        """The frames' names in order."""
        return [path.stem for path in frame_paths(self.frames)]

    def numbers(self, frame: str) -> Integer[np.ndarray, "h w"]:
        """The object at each pixel of a frame, 0 where there is none.

        Raises:
          ValueError: if the frame has no annotation that can be read.
        """
        return without_void(read_numbers(file_named(self.annotations, frame), own_colours=False))

    def truth(self, frame: str, number: int) -> Bool[np.ndarray, "h w"]:
        """The true mask of an object in a frame."""
        return self.numbers(frame) == number

    def objects(self) -> list[VideoObject]:
        """The objects to track.

        In DAVIS, all frames between an object's first and the clip's last count; in LVOS, those between the first and
        last of the object's span.

        Raises:
          ValueError: if there is none, or an annotation cannot be read.
        """
        found = self._of_annotations() if self.spans is None else self._of_spans(self.spans)
        if not found:
            raise ValueError(f"{self.annotations} must show at least one object, got none")
        return found

    def _of_annotations(self) -> list[VideoObject]:
        names = [path.stem for path in files_in(self.annotations, ANNOTATED)]
        firsts: dict[int, int] = {}
        for place, name in enumerate(names):
            for number in np.unique(self.numbers(name)):
                if number:
                    firsts.setdefault(int(number), place)
        if len(firsts) > 1 and max(firsts) == VOID:
            del firsts[VOID]
        return [VideoObject(n, names[first], tuple(names[first + 1 : -1])) for n, first in sorted(firsts.items())]

    def _of_spans(self, spans: dict[int, tuple[int, int, int]]) -> list[VideoObject]:
        found = []
        for number, (start, end, count) in sorted(spans.items()):
            names = [f"{frame:08d}" for frame in range(start, end, LVOS_STEP)]
            found.append(VideoObject(number, names[0], tuple(names[1 : count - 1])))
        return found


def find_layout(folder: Path) -> Layout:
    """How the videos in a folder are laid out.

    Raises:
      ValueError: if in none of the known ways, saying what was expected and what was found.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    if (folder / IMAGES).is_dir() and (folder / ANNOTATIONS).is_dir():
        return "lvos" if _meta_files(folder) else "davis"
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise ValueError(
        f"{folder} must hold {IMAGES}/ and {ANNOTATIONS}/ with a folder of frames for each clip: DAVIS (2016 or 2017) "
        f"inside {RESOLUTION}/, LVOS with valid_meta.json beside them; found {found}"
    )


def open_clips(folder: Path, names: Sequence[str] = ()) -> list[Clip]:
    """The clips in a folder of DAVIS or LVOS.

    Args:
      folder: that holds JPEGImages and Annotations.
      names: of the clips to take; all unless given.

    Raises:
      ValueError: if the folder is laid out otherwise, has no clip, or one without frames or annotations.
    """
    layout = find_layout(folder)
    images, annotations = folder / IMAGES, folder / ANNOTATIONS
    if (images / RESOLUTION).is_dir():
        images, annotations = images / RESOLUTION, annotations / RESOLUTION
    spans = _read_spans(folder) if layout == "lvos" else None
    there = sorted(spans) if spans is not None else [path.name for path in folders_in(images)]
    unknown = [name for name in names if name not in there]
    if unknown:
        raise ValueError(f"{folder} has no clip {', '.join(unknown)}; it has {', '.join(there)}")
    clips = [
        Clip(name, images / name, annotations / name, None if spans is None else spans[name]) for name in names or there
    ]
    if not clips:
        raise ValueError(f"{images} must hold a folder of frames for each clip, got none")
    for clip in clips:
        for part, suffixes in ((clip.frames, PHOTO_SUFFIXES), (clip.annotations, ANNOTATED)):
            if not part.is_dir() or not files_in(part, suffixes):
                raise ValueError(f"clip {clip.name} must have *{suffixes[0]} in {part}, got none")
    return clips


def read_names(path: Path) -> list[str]:
    """The clips that a list names: one a line, or, as in DAVIS 2016, the paths of their frames.

    Raises:
      ValueError: if it names none.
    """
    firsts = [line.split()[0] for line in path.read_text().splitlines() if line.split()]
    names = list(dict.fromkeys(first if "/" not in first else Path(first).parent.name for first in firsts))
    if not names:
        raise ValueError(f"{path} must name a clip on each line, got nothing")
    return names


def _meta_files(folder: Path) -> list[Path]:
    return [path for path in files_in(folder, (".json",)) if path.stem.endswith("_meta")]


def _read_spans(folder: Path) -> dict[str, dict[int, tuple[int, int, int]]]:
    files = _meta_files(folder)
    if len(files) > 1:
        raise ValueError(f"{folder} must hold one *_meta.json, got {', '.join(path.name for path in files)}")
    try:
        videos = json.loads(files[0].read_text())["videos"]
        return {
            name: {int(number): _span(entry["frame_range"]) for number, entry in video["objects"].items()}
            for name, video in videos.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{files[0]} must give each video's objects, and each one's frame_range with start, end and frame_nums; "
            f"reading it failed with {error!r}"
        ) from error


def _span(entry: dict[str, str]) -> tuple[int, int, int]:
    return cast(tuple[int, int, int], tuple(int(entry[key]) for key in ("start", "end", "frame_nums")))
