"""Arrays that wait in a temporary file until somebody asks for them."""

import errno
import math
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from io import FileIO
from typing import Any, cast

import numpy as np
from jaxtyping import Shaped, UInt8

__all__ = ["ArrayFile", "StoredArrays"]

# An array's name, shape, dtype, and where it begins among those that were written with it.
Layout = tuple[tuple[str, tuple[int, ...], np.dtype, int], ...]


class ArrayFile:
    """A temporary file without a name, written and read piece by piece; it is gone with the last who refers to it.

    It is made when the first arrays come, in the folder for temporary files (`TMPDIR`). The space of arrays to which
    nobody refers any more is used again. `copy.deepcopy` gives the same file, since what is in it never changes; a
    pickle holds the arrays themselves, for a new file where it is read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._end = 0
        self._free: dict[int, list[int]] = {}  # where there is space, by its size: arrays come in few sizes
        self._layouts: dict[Layout, Layout] = {}  # equal ones are one object

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self._end

    @property
    def used(self) -> int:
        """How many of its bytes are of arrays that somebody refers to."""
        return self._end - sum(size * len(places) for size, places in self._free.items())

    def write(self, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> "StoredArrays":
        """Writes arrays, all of them or, where that fails, none.

        Args:
          arrays: by name, of any shapes and dtypes.

        Raises:
          OSError: if they cannot be written, naming the folder.
        """
        contents = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays.values()]
        layout, size = [], 0
        for (name, array), content in zip(arrays.items(), contents, strict=True):
            layout.append((name, array.shape, array.dtype, size))
            size += content.nbytes
        with self._lock:
            places = self._free.setdefault(size, [])
            place = places.pop() if places else self._end
            try:
                file = self._open()
                file.seek(place)
                for content in contents:
                    _transfer(file.write, content)
            except BaseException as error:
                if place < self._end:
                    places.append(place)
                if not isinstance(error, OSError):
                    raise
                raise OSError(
                    error.errno,
                    f"{size} bytes cannot be written to a temporary file in {_folder()}: {error.strerror}. "
                    "Make space there, or name another folder in the environment variable TMPDIR",
                ) from error
            self._end = max(self._end, place + size)
            kept = tuple(layout)
            return StoredArrays(self, place, size, self._layouts.setdefault(kept, kept))

    def _open(self) -> FileIO:
        if self._file is None:
            # Unbuffered, which is raw; whoever refers to it here keeps it open.
            self._file = cast(FileIO, tempfile.TemporaryFile(prefix="sam2refiner-", buffering=0))  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        return self._file

    def _read(self, place: int, shape: tuple[int, ...], dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
        content = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        with self._lock:
            file = self._open()
            file.seek(place)
            _transfer(file.readinto, content)
        return content.view(dtype).reshape(shape)

    def _release(self, place: int, size: int) -> None:
        # Without the lock: what collects garbage may hold it. To append is one step.
        self._free[size].append(place)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ArrayFile":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayFile, ()


class StoredArrays:
    """Arrays in an `ArrayFile`, by name."""

    __slots__ = ("_file", "_layout", "_place", "_size")

    def __init__(self, file: ArrayFile, place: int, size: int, layout: Layout):
        self._file, self._place, self._size, self._layout = file, place, size, layout

    def __contains__(self, name: object) -> bool:
        return any(name == each for each, *_ in self._layout)

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """One of them, bit for bit as it was written; it is not kept.

        Raises:
          KeyError: if there is none of this name.
          OSError: if it cannot be read.
        """
        for each, shape, dtype, start in self._layout:
            if each == name:
                return self._file._read(self._place + start, shape, dtype)
        raise KeyError(name)

    def __del__(self) -> None:
        self._file._release(self._place, self._size)

    def __deepcopy__(self, memo: dict[int, Any]) -> "StoredArrays":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return self._file.write, ({name: self.read(name) for name, *_ in self._layout},)


def _transfer(step: Callable[[memoryview], int | None], content: UInt8[np.ndarray, " n"]) -> None:
    """Writes or reads all of the bytes, in as many steps as it takes."""
    left = content.data
    while left:
        count = step(left)
        if not count:
            raise OSError(errno.EIO, f"{len(left)} bytes of a temporary file are missing")
        left = left[count:]


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # none can be written to
        return "any folder for temporary files"
