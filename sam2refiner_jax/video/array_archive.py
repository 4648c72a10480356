"""Arrays and what is said of them in one file: an .npz that `numpy.load` opens without pickles, bit for bit."""

import json
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from ..atomic import new_file

__all__ = ["ArchiveError", "ArrayArchive", "save_archive"]

# The member that holds JSON as bytes; it is written last.
HEADER = "header"
# The header's field of types that NumPy's files do not know, such as bfloat16; their bits lie in whole numbers.
TYPES = "types_of_bits"


class ArchiveError(ValueError):
    """A file that is no such archive, or a damaged one; the message names it."""


def save_archive(
    path: str | os.PathLike[str],
    header: dict[str, Any],
    arrays: Iterable[tuple[str, Shaped[np.ndarray, "..."]]],
    *,
    overwrite: bool = False,
) -> None:
    """Writes a file that appears whole under its name or not at all, also where the machine goes down.

    Args:
      path: of the file.
      header: what JSON can hold.
      arrays: name and array, asked for one by one, so that no two need be in memory.
      overwrite: replace a file that is there.

    Raises:
      FileExistsError: if there is one, unless `overwrite`.
      OSError: if it cannot be written.
    """
    types: dict[str, str] = {}
    with new_file(path, overwrite=overwrite) as partial, open(partial, "wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays:
                if array.dtype.kind == "V":
                    types[name] = array.dtype.name
                    array = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
                _write(archive, name, array)
            text = json.dumps({**header, TYPES: types}).encode()
            _write(archive, HEADER, np.frombuffer(text, np.uint8))
        file.flush()
        os.fsync(file.fileno())


def _write(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


class ArrayArchive:
    """Such a file, open for reading; arrays are read when they are asked for.

    Args:
      path: of the file.
      what: what it should be, for messages: "saved state".

    Attributes:
      header: what was said of the arrays.

    Raises:
      ArchiveError: if it is no such file.
      FileNotFoundError: if there is none.
    """

    def __init__(self, path: str | os.PathLike[str], what: str):
        self.path = Path(path)
        self._what = what
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}, which should be a {what}, does not exist")
        try:
            self._archive = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ArchiveError(f"{self.path} is no {what}: {error}") from error
        self._types: dict[str, str] = {}
        self._names = {name.removesuffix(".npy") for name in self._archive.namelist()}
        try:
            self.header = json.loads(self[HEADER].tobytes())
            self._types = self.header.pop(TYPES)
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            self._archive.close()
            raise ArchiveError(f"{self.path} is no {what}: it has no header that can be read") from error

    def __enter__(self) -> "ArrayArchive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._archive.close()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        """An array.

        Raises:
          ArchiveError: if there is none of this name, or it is damaged.
        """
        try:
            with self._archive.open(f"{name}.npy") as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
        except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ArchiveError(f"{self.path} is a damaged {self._what}: {name} cannot be read: {error}") from error
        return array.view(jnp.dtype(self._types[name])) if name in self._types else array

    def find(self, name: str) -> Shaped[np.ndarray, "..."] | None:
        """An array, or None if there is none of this name."""
        is_there = name in self
        return self[name] if is_there else None
