"""Files and directories that appear whole under their name or not at all."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["new_directory", "new_file", "remove_partial_files"]

# Bytes of chance in the name of what is half-written.
TOKEN_BYTES = 8


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


def remove_partial_files(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Removes what a process that was killed left of `new_file` for these paths; nobody may be writing there."""
    targets = {Path(path).absolute() for path in paths}
    for folder in {target.parent for target in targets}:
        for path in folder.iterdir() if folder.is_dir() else ():
            found = re.fullmatch(rf"\.(.+)-[0-9a-f]{{{2 * TOKEN_BYTES}}}(\.[^.]*)?", path.name)
            if found and folder / (found[1] + (found[2] or "")) in targets and path.is_file():
                path.unlink()


def _absent(path: str | os.PathLike[str]) -> Path:
    target = Path(path).absolute()
    if target.exists():
        raise FileExistsError(f"{target} exists already; choose another name or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _beside(target: Path) -> Path:
    """A hidden name in the same folder that nothing has. What is made there gets the rights that the umask leaves."""
    return target.with_name(f".{target.stem}-{secrets.token_hex(TOKEN_BYTES)}{target.suffix}")
