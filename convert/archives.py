"""PyTorch's own files read without PyTorch: archives whose pickle may name tensors and dictionaries, and nothing else.

PyTorch itself takes up to a gigabyte of memory and maps what it reads, and most checkpoints need nothing of it.
"""

import collections
import dataclasses
import io
import lzma
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sam2refiner_jax.checkpoints import CheckpointError

__all__ = ["StoredTensor", "open_archive"]

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor whose numbers are read when it is made an array, each time anew.

    Attributes:
      shape: its shape.
      read: gives its numbers.

    Raises:
      CheckpointError: when it is made an array, if it cannot be read.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            return np.asarray(self.read(), dtype=dtype)
        except CheckpointError:
            raise
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
            raise CheckpointError(f"damaged: {error}") from error


def open_archive(path: Path) -> Any:
    """What `torch.save` wrote, each tensor as `StoredTensor`.

    Raises:
      Exception: of many kinds, if it is damaged, or holds anything but tensors, numbers, text and containers of these.
    """
    archive = zipfile.ZipFile(path)
    (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = index.removesuffix("data.pkl")
    if folder + "byteorder" in archive.namelist() and archive.read(folder + "byteorder") != b"little":
        raise ValueError("only archives of little-endian numbers are read")
    return _Unpickler(archive, folder).load()


class _Unpickler(pickle.Unpickler):
    """Makes tensors and dictionaries; whatever else the file names is refused before it is made.

    What it gives the pickle to call are its own methods, which the pickle cannot alter.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(folder + "data.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        known: dict[str, Any] = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": self.parameter,
            **{f"torch.{storage}": dtype for storage, dtype in STORAGES.items()},
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} was not expected")
        return known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype]:
        kind, dtype, key, _, _ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"{kind} of {dtype} was not expected")
        return f"{self.folder}data/{key}", dtype

    def tensor(
        self,
        storage: tuple[str, np.dtype],
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        requires_grad: bool,
        hooks: Any,
        metadata: Any = None,
    ) -> StoredTensor:
        name, dtype = storage
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        there = self.archive.getinfo(name).file_size // dtype.itemsize
        if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= there):
            raise ValueError(f"{name} holds {there} numbers, too few for a tensor of {shape}")
        return StoredTensor(tuple(shape), _reader(self.archive, name, dtype, offset, shape, strides))

    def parameter(self, tensor: StoredTensor, requires_grad: bool, hooks: Any) -> StoredTensor:
        return tensor


def _reader(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        numbers = np.frombuffer(archive.read(name), dtype)[offset:]
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.lib.stride_tricks.as_strided(numbers, shape, [step * dtype.itemsize for step in strides])

    return read
