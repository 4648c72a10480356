"""Which files of a folder count, and opening them: one rule for photos, frames, masks and annotations."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

__all__ = ["PHOTO_SUFFIXES", "file_named", "files_below", "files_in", "folders_in", "open_picture", "read_bytes"]

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def files_in(folder: Path, suffixes: Sequence[str] = PHOTO_SUFFIXES) -> list[Path]:
    """The files of a folder that end with one of `suffixes`, in upper or lower case, sorted by name.

    What is hidden, its name starting with a dot, is passed over: `._a.jpg` of macOS, half-written files, and folders
    such as `.ipynb_checkpoints`.
    """
    return sorted(path for path in folder.iterdir() if _counts(path, suffixes) and not path.is_dir())


def files_below(folder: Path, suffixes: Sequence[str] = PHOTO_SUFFIXES) -> list[Path]:
    """As `files_in`, of the folder and the folders below that are not hidden."""
    found: list[Path] = []
    for parent, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        found += [path for name in files if _counts(path := Path(parent, name), suffixes)]
    return sorted(found)


def folders_in(folder: Path) -> list[Path]:
    """The folders of a folder, sorted by name; hidden ones are passed over."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def file_named(folder: Path, stem: str, suffix: str = ".png") -> Path:
    """The file STEM.png of a folder, by the rule of `files_in`; where it would be if there is none."""
    path = folder / f"{stem}{suffix}"
    if path.exists() or not folder.is_dir():
        return path
    return next((other for other in files_in(folder, (suffix,)) if other.stem == stem), path)


def read_bytes(path: str | Path) -> bytes:
    """The content of a file; a ValueError names it if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def open_picture(data: bytes, name: str | Path) -> Iterator[Image.Image]:
    """The picture in a file's bytes; whatever goes wrong with it becomes a ValueError that names it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError as error:
        reason = "no picture format that is known" if data else "empty file"
        raise ValueError(f"{name} is not a readable picture: {reason}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is not a readable picture: {error}") from error


def _counts(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".")
