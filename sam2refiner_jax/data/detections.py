"""A detector's boxes of instances in videos, as CocoVID and YouTube-VIS write them."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .files import read_bytes

__all__ = ["FirstBox", "read_detections"]

# Numbers of objects that fit a picture of 16 bits.
MOST = 65535


class FirstBox(NamedTuple):
    """Where a detector first saw an instance.

    Attributes:
      frame: the index of the frame.
      number: of the object: the instance's id where all ids can be numbers of objects, else counted from 1.
      box: x0, y0, x1, y1 in pixels.
      instance: its id in the file.
      category: its name in the file; None if it has none.
      score: the box's; 1 if it has none.
    """

    frame: int
    number: int
    box: tuple[float, float, float, float]
    instance: Any
    category: str | None
    score: float


class Seen(NamedTuple):
    """A box in the file."""

    place: str
    frame: int
    instance: Any
    bbox: Any
    category: Any
    score: float


def read_detections(
    path: Path,
    video: str,
    frame_names: Sequence[str] | None,
    num_frames: int,
    size: tuple[int, int],
    score_threshold: float = 0.0,
) -> list[FirstBox]:
    """The first box of every instance in a video, in the order of frames and of the file.

    A CocoVID file has `videos`, `images` (of a frame each: `id`, `video_id`, `file_name`, `frame_id`) and
    `annotations` (`image_id`, `instance_id` or `track_id`, `bbox`). A YouTube-VIS file has `videos` (`id`,
    `file_names`) and `annotations` (`video_id`, `bboxes`, one a frame or null), each of one instance. In both, boxes
    are x, y, width and height in pixels, `score` is optional, and `categories` names `category_id`.

    Args:
      path: of the file.
      video: the name of the video's file or folder; a file of a single video is taken for it whatever its name.
      frame_names: of a folder, the names of its frames without suffix, by which they are found. None for a video file,
        whose frames are counted: by `frame_id`, or by their place in `file_names`.
      num_frames: of the video.
      size: height and width of the video.
      score_threshold: boxes with lower scores do not count.

    Raises:
      ValueError: naming the file and the entry: if it is no JSON of either form, has no or several videos of this name,
        frames that the video has not, boxes that are none, or no box that counts.
    """
    document = _parse(path)
    entry = _find_video(path, document, video)
    _check_size(path, "videos", entry, size)
    is_cocovid = bool(document.get("images"))
    seen = (_of_cocovid if is_cocovid else _of_youtube_vis)(path, document, entry, frame_names, num_frames, size)
    names = {category.get("id"): category.get("name") for category in document.get("categories", [])}
    firsts: dict[Any, tuple[Seen, tuple[float, float, float, float]]] = {}
    best = None
    for each in sorted(seen, key=lambda each: each.frame):  # stable: in the order of the file
        box = _corners(path, each, size)
        best = each.score if best is None else max(best, each.score)
        if each.score >= score_threshold:
            firsts.setdefault(each.instance, (each, box))
    if not firsts:
        found = "no box" if best is None else f"scores up to {best:g}"
        raise ValueError(f"{path} must have a box of {video} with a score of at least {score_threshold:g}, got {found}")
    are_numbers = all(type(i) is int and 1 <= i <= MOST for i in firsts)
    return [
        FirstBox(
            each.frame,
            each.instance if are_numbers else count,
            box,
            each.instance,
            names.get(each.category),
            each.score,
        )
        for count, (each, box) in enumerate(firsts.values(), start=1)
    ]


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_bytes(path))
    except ValueError as error:
        if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
            raise ValueError(f"{path} is not JSON: {error}") from error
        raise
    expected = "an object with videos and annotations, and images in CocoVID's form"
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold {expected}, got {type(document).__name__}")
    for name in ("videos", "annotations", "images", "categories"):
        needed = name in ("videos", "annotations")
        value = document.get(name, None if needed else [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            got = "none" if value is None else "something else"
            raise ValueError(f"{path} must hold {expected}: {name} must be a list of objects, got {got}")
    if not document["videos"]:
        raise ValueError(f"{path} must name a video in videos, got none")
    return document


def _field(path: Path, place: str, entry: dict[str, Any], *names: str) -> Any:
    """The first of these fields that an entry has."""
    for name in names:
        if name in entry:
            return entry[name]
    raise ValueError(f"{path}: {place} must have {' or '.join(names)}, got {', '.join(entry) or 'nothing'}")


def _names_of(entry: dict[str, Any]) -> set[str]:
    """What a video may be called: by its name, or by the folder of its frames."""
    files = entry.get("file_names") or [None]
    parts = [entry.get("name"), str(Path(str(files[0])).parent) if files[0] else None]
    return {form for part in parts if part for form in (str(part), Path(str(part)).name, Path(str(part)).stem)}


def _find_video(path: Path, document: dict[str, Any], video: str) -> dict[str, Any]:
    videos = document["videos"]
    if len(videos) == 1:
        return videos[0]
    found = [each for each in videos if {video, Path(video).stem} & _names_of(each)]
    if len(found) != 1:
        known = ", ".join(sorted(min(_names_of(each), key=len, default="one without a name") for each in videos)[:10])
        raise ValueError(f"{path} must have one video called {video}, got {len(found)} among {len(videos)}: {known}")
    return found[0]


def _check_size(path: Path, place: str, entry: dict[str, Any], size: tuple[int, int]) -> None:
    stated = entry.get("height", size[0]), entry.get("width", size[1])
    if tuple(stated) != tuple(size):
        raise ValueError(f"{path}: {place} are of {stated[1]} x {stated[0]} pixels, the video is {size[1]} x {size[0]}")


def _frame_of(
    path: Path, place: str, file_name: Any, counted: Any, names: Sequence[str] | None, num_frames: int
) -> int:
    if names is not None:
        stem = Path(str(file_name)).stem
        if stem not in names:
            raise ValueError(f"{path}: {place} must be of a frame, {names[0]} to {names[-1]}, got {file_name!r}")
        return names.index(stem)
    if type(counted) is not int or not 0 <= counted < num_frames:
        raise ValueError(f"{path}: {place} must be of a frame from 0 to {num_frames - 1}, got {counted!r}")
    return counted


def _of_cocovid(
    path: Path,
    document: dict[str, Any],
    video: dict[str, Any],
    names: Sequence[str] | None,
    num_frames: int,
    size: tuple[int, int],
) -> Iterator[Seen]:
    several = len(document["videos"]) > 1
    images = {}
    for i, image in enumerate(document["images"]):
        place = f"images[{i}]"
        if several and _field(path, place, image, "video_id") != video.get("id"):
            continue
        _check_size(path, place, image, size)
        file_name = image.get("file_name") if names is None else _field(path, place, image, "file_name")
        counted = _field(path, place, image, "frame_id") if names is None else None
        images[_field(path, place, image, "id")] = place, file_name, counted
    for i, annotation in enumerate(document["annotations"]):
        place = f"annotations[{i}]"
        image = images.get(_field(path, place, annotation, "image_id"))
        if image is not None:
            yield Seen(
                place,
                _frame_of(path, *image, names, num_frames),
                _hashable(path, place, _field(path, place, annotation, "instance_id", "track_id")),
                _field(path, place, annotation, "bbox"),
                annotation.get("category_id"),
                _score(path, place, annotation),
            )
        elif not several:
            raise ValueError(f"{path}: {place} must be of an image in images, got image_id {annotation['image_id']!r}")


def _of_youtube_vis(
    path: Path,
    document: dict[str, Any],
    video: dict[str, Any],
    names: Sequence[str] | None,
    num_frames: int,
    size: tuple[int, int],
) -> Iterator[Seen]:
    files = _field(path, "the video in videos", video, "file_names")
    for i, annotation in enumerate(document["annotations"]):
        place = f"annotations[{i}]"
        if len(document["videos"]) > 1 and _field(path, place, annotation, "video_id") != video.get("id"):
            continue
        boxes, score = _field(path, place, annotation, "bboxes"), _score(path, place, annotation)
        if not isinstance(boxes, list) or len(boxes) != len(files):
            got = len(boxes) if isinstance(boxes, list) else boxes
            raise ValueError(f"{path}: {place} must have a box or null for each of {len(files)} frames, got {got}")
        instance = _hashable(path, place, annotation.get("id", i + 1))
        for index, box in enumerate(boxes):
            if box is not None:
                frame = _frame_of(path, f"file_names[{index}]", files[index], index, names, num_frames)
                yield Seen(f"{place}.bboxes[{index}]", frame, instance, box, annotation.get("category_id"), score)


def _hashable(path: Path, place: str, instance: Any) -> int | str:
    if not isinstance(instance, (int, str)):
        raise ValueError(f"{path}: {place} must have a number or text for the instance's id, got {instance!r}")
    return instance


def _score(path: Path, place: str, annotation: dict[str, Any]) -> float:
    score = annotation.get("score", 1.0)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise ValueError(f"{path}: {place} must have a number for its score, got {score!r}")
    return float(score)


def _corners(path: Path, seen: Seen, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box's corners; what reaches over the frame's edge stays, as detectors' boxes do."""
    box = seen.bbox
    are_numbers = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
    if not are_numbers or not all(map(math.isfinite, box)) or box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"{path}: {seen.place} must be a box [x, y, width, height] with an area, got {box!r}")
    x, y, width, height = map(float, box)
    if x >= size[1] or y >= size[0] or x + width <= 0 or y + height <= 0:
        raise ValueError(f"{path}: {seen.place} must overlap the frame of {size[1]} x {size[0]} pixels, got {box}")
    return x, y, x + width, y + height
