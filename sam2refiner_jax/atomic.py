"""Files and directories that appear whole under their name or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["new_directory", "new_file"]


@contextlib.contextmanager
def new_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty directory that gets its name when the block ends without an error, and vanishes otherwise.

    Raises:
      FileExistsError: if `directory` exists already.
    """
    target = _absent(directory)
    partial = _beside(target)
    partial.mkdir()
    try:
        yield partial
        _absent(target)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a path to write to; the file gets its name when the block ends without an error, and vanishes otherwise.

    The yielded path keeps the suffix, which writers of pictures go by.

    Raises:
      FileExistsError: if `path` exists already, unless `overwrite`.
    """
    target = Path(path).absolute() if overwrite else _absent(path)
    partial = _beside(target)
    partial.touch(exist_ok=False)
    try:
        yield partial
        if not overwrite:
            _absent(target)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _absent(path: str | os.PathLike[str]) -> Path:
    target = Path(path).absolute()
    if target.exists():
        raise FileExistsError(f"{target} exists already; choose another name or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _beside(target: Path) -> Path:
    """A hidden name in the same folder that nothing has. What is made there gets the rights that the umask leaves."""
    return target.with_name(f".{target.stem}-{secrets.token_hex(8)}{target.suffix}")
