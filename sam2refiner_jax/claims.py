"""Folders in which one process works at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderClaim", "claimed"]


class FolderClaim:
    """Keeps other processes out of a folder until it is released, or this process ends, however it does.

    It is a lock of the folder itself (`flock`), which leaves no file behind. Within a process claims share it. Where
    there are no such locks, as on Windows and some network file systems, nobody is kept out.

    Args:
      folder: one that exists.

    Raises:
      ValueError: if another process has claimed it.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._folder = Path(folder).resolve()
        sharing = _CLAIMS.get(self._folder)
        self._descriptor: int | None = sharing[0]._descriptor if sharing else _lock(self._folder)
        _CLAIMS.setdefault(self._folder, []).append(self)

    def release(self) -> None:
        """Lets others in; the second time it does nothing."""
        sharing = _CLAIMS.get(self._folder, [])
        if self not in sharing:
            return
        sharing.remove(self)
        if not sharing:
            del _CLAIMS[self._folder]
            if self._descriptor is not None:
                os.close(self._descriptor)


# The claims of this process.
_CLAIMS: dict[Path, list[FolderClaim]] = {}


@contextlib.contextmanager
def claimed(folder: str | os.PathLike[str]) -> Iterator[None]:
    """A `FolderClaim` while it is entered."""
    claim = FolderClaim(folder)
    try:
        yield
    finally:
        claim.release()


def _lock(folder: Path) -> int | None:
    """The descriptor that holds the lock; None where there are no locks."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(
            f"{folder} is in use by another process; wait for its end, or choose another folder"
        ) from error
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
