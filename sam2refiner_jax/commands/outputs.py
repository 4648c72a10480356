"""Results of commands: each file says what made it and of what, so that only an earlier result is ever replaced."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..atomic import new_file
from ..data.volumes import is_volume, tags_of_volume
from ..video.saved_state import read_notes

__all__ = [
    "DONE_WITH",
    "SCORE_COLUMNS",
    "check_outputs",
    "check_unused",
    "clear_results",
    "document_of",
    "made_of",
    "result_tags",
    "save_document",
    "save_picture",
    "save_scores",
    "source_of",
    "video_tags",
]

SOFTWARE = "sam2refiner_jax"
# The fields of PNGs and JSONs, and those of videos, whose containers know only some names.
MADE_BY, MADE_OF = "Software", "Source"
VIDEO_MADE_BY, VIDEO_MADE_OF = "comment", "title"
# The head of a table of scores; its first column says what it is of.
SCORE_COLUMNS = ("video", "frame", "object", "object_score", "predicted_iou")
# The field of a JSON that says with which settings and prompts it was made.
DONE_WITH = "made_with"


def source_of(path: Path) -> str:
    """What results call the photo or video that they are of: its name and its folder's."""
    return "/".join(path.resolve().parts[-2:])


def save_picture(picture: Image.Image, path: Path, source: str, **options: int) -> None:
    """Writes a result as PNG, in place of an earlier one."""
    tags = PngInfo()
    tags.add_text(MADE_BY, SOFTWARE)
    tags.add_itxt(MADE_OF, source)
    with new_file(path, overwrite=True) as partial:
        picture.save(partial, "PNG", pnginfo=tags, **options)


def save_document(document: dict, path: Path, source: str) -> None:
    """Writes a result as JSON, in place of an earlier one."""
    with new_file(path, overwrite=True) as partial:
        partial.write_text(
            json.dumps({**document, MADE_BY.lower(): SOFTWARE, MADE_OF.lower(): source}, indent=2) + "\n"
        )


def save_scores(rows: Iterable[Sequence[object]], path: Path, source: str) -> None:
    """Writes a result as CSV, in place of an earlier one: for each row the source, and what `SCORE_COLUMNS` says."""
    with new_file(path, overwrite=True) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(SCORE_COLUMNS)
        writer.writerows([source, *row] for row in rows)


def video_tags(source: str) -> dict[str, str]:
    """The metadata of a result that is a video."""
    return {VIDEO_MADE_BY: SOFTWARE, VIDEO_MADE_OF: source}


def result_tags(source: str) -> dict[str, str]:
    """The text in a result that is a volume, or the state of a run."""
    return {MADE_BY: SOFTWARE, MADE_OF: source}


def made_of(path: Path) -> str | None:
    """The source of a result; None if the file is no result of ours."""
    tags: dict[Any, Any]
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path) as picture:
                tags = picture.info
            return tags.get(MADE_OF) if tags.get(MADE_BY) == SOFTWARE else None
        if path.suffix.lower() == ".json":
            document = json.loads(path.read_bytes())
            ours = isinstance(document, dict) and document.get(MADE_BY.lower()) == SOFTWARE
            return document.get(MADE_OF.lower()) if ours else None
        if path.suffix.lower() == ".csv":
            with open(path, newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                ours = tuple(next(reader, ())) == SCORE_COLUMNS
                sources = {row[0] for row in reader if row} if ours else set()
            return sources.pop() if len(sources) == 1 else None
        if path.suffix.lower() == ".mp4":
            import av

            with av.open(str(path)) as container:
                tags = container.metadata
            return tags.get(VIDEO_MADE_OF) if tags.get(VIDEO_MADE_BY) == SOFTWARE else None
        if path.suffix.lower() == ".npz":
            tags = read_notes(path)
            return tags.get(MADE_OF) if tags.get(MADE_BY) == SOFTWARE else None
        if is_volume(path):
            tags = tags_of_volume(path)
            return tags.get(MADE_OF) if tags.get(MADE_BY) == SOFTWARE else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, csv.Error):
        pass  # PyAV's errors are of these kinds too
    return None


def document_of(path: Path, source: str) -> dict[str, Any] | None:
    """A JSON that is a result of this source; None if there is none."""
    return json.loads(path.read_bytes()) if made_of(path) == source else None


def check_outputs(outputs: Iterable[tuple[Path, str]], inputs: Iterable[Path] = ()) -> None:
    """Makes sure, before work begins, that results replace nothing but earlier results of the same source.

    Args:
      outputs: each file that may be written, and its source.
      inputs: what the command reads.

    Raises:
      ValueError: naming the file, if it is an input, was made by somebody else or of another source, or would be
        written twice.
    """
    read = {(stat.st_dev, stat.st_ino): path for path in inputs if path.exists() for stat in [path.stat()]}
    writers: dict[str, str] = {}
    for path, source in outputs:
        # Names that differ in case alone are one name to some file systems.
        other = writers.setdefault(str(path.resolve()).casefold(), source)
        if other != source:
            raise ValueError(f"{other} and {source} would both have results in {path}; rename one or do one at a time")
        if not os.path.lexists(path):
            continue
        if path.exists() and (stat := path.stat()) and (stat.st_dev, stat.st_ino) in read:
            raise ValueError(f"{path} is read here and must not be replaced by results; choose another output folder")
        if (found := made_of(path)) != source:
            what = f"holds results of {found}" if found else "is no result of this program"
            raise ValueError(f"{path} {what} and will not be replaced; choose another output folder, or remove it")


def clear_results(folder: Path, source: str, pattern: str = "*.png") -> None:
    """Removes the earlier results of a source from a folder, so that none is left among the new ones."""
    for path in folder.glob(pattern):
        if made_of(path) == source:
            path.unlink()


def check_unused(folder: Path, names: Iterable[str]) -> None:
    """Makes sure, before a new run begins in a folder, that nothing is there under the names that the run writes to.

    Raises:
      ValueError: naming the first that is.
    """
    for name in names:
        if os.path.lexists(folder / name):
            raise ValueError(
                f"{folder / name} is of no run there and will not be replaced; choose another folder, or remove it"
            )
