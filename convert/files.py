"""Tensors in files of PyTorch and safetensors: shapes at once, numbers one tensor at a time; nothing is executed."""

import functools
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sam2refiner_jax.checkpoints import TENSOR_FILES, CheckpointError, few

from .archives import StoredTensor, open_archive

__all__ = ["INSTALL_HINT", "as_array", "first_line", "open_tensors"]

INSTALL_HINT = "pip install 'sam2refiner_jax[convert]'"


def open_tensors(path: Path) -> dict[Any, Any]:
    """What a checkpoint holds: tensors by name as `StoredTensor`, in nested dictionaries where it has such.

    Args:
      path: a .pt, a .safetensors, the index of a checkpoint in several files, or a folder that holds one of these.

    Raises:
      CheckpointError: if it is none of these, or damaged.
    """
    content: dict[Any, Any] = {}
    for file in _files(path):
        try:
            found = _open_file(file)
        except CheckpointError as error:
            raise CheckpointError(str(error) if file == path else f"{file.name}: {error}") from error
        twice = [str(name) for name in found if name in content]
        if twice:
            raise CheckpointError(f"{file.name} holds again what another file holds: {few(twice)}")
        content |= found
    return content


def _files(path: Path) -> list[Path]:
    """The file at `path`, or those that it stands for."""
    if path.is_dir():
        return _files_in(path)
    if not path.is_file():
        raise CheckpointError("not a file, a checkpoint directory or a Hugging Face id")
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
        shards = [path.parent / name for name in names]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"a JSON file must be an index that names a file for every tensor under weight_map: {error!r}"
        ) from error
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(f"of the {len(shards)} files that the index names, {few(missing)} must lie beside it")
    return shards


def _files_in(folder: Path) -> list[Path]:
    """The files of the one checkpoint in a folder."""
    names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    indices = [name for name in names if name.endswith(".index.json")]
    pickled = [name for name in names if name.endswith(TENSOR_FILES) and not name.endswith(".safetensors")]
    plain = [name for name in names if name.endswith(".safetensors")]
    parts = [re.fullmatch(r"(.*-)(\d+)(-of-(\d+)\.safetensors)", name) for name in plain]
    if len(indices) == 1:
        return _files(folder / indices[0])
    # Hugging Face's folders hold the official .pt and, as .safetensors, the tensors of the transformers library.
    if len(pickled) == 1 or (not pickled and len(plain) == 1):
        return [folder / (pickled or plain)[0]]
    if not pickled and plain and all(parts) and len({(part[1], part[3]) for part in parts if part}) == 1:
        first = parts[0]
        assert first is not None
        whole = [f"{first[1]}{i:0{len(first[2])}}{first[3]}" for i in range(1, int(first[4]) + 1)]
        missing = [name for name in whole if name not in plain]
        if missing:
            raise CheckpointError(f"of {len(whole)} parts the folder lacks {few(missing)}")
        return [folder / name for name in whole]
    if not (candidates := indices or pickled or plain):
        raise CheckpointError(
            "the folder must hold a checkpoint: weights/ beside a config.json, one .pt, one .safetensors, or "
            f"safetensors in parts; got {few(names) or 'nothing'}"
        )
    raise CheckpointError(f"the folder holds several checkpoints, of which one must be named: {few(candidates)}")


def _open_file(path: Path) -> dict[Any, Any]:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError("the file is empty")
    # By what is in it: files are renamed. safetensors begin with the length of their header, which is JSON.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _open_safetensors(path)
    _refuse_foreign(head)
    if path.suffix == ".safetensors" and not zipfile.is_zipfile(path):
        raise CheckpointError("damaged or not a safetensors file")
    return _open_pt(path)


def _refuse_foreign(head: bytes) -> None:
    """Raises a CheckpointError that says what a file is that begins with `head`, if that is no file of tensors."""
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("a pointer of Git LFS to the file, not the file itself; `git lfs pull` fetches it")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise CheckpointError("a web page, not a checkpoint; download the file itself, not the page that shows it")
    if start.startswith(b"\x1f\x8b"):
        raise CheckpointError("compressed by gzip; unpack it first")
    text = head.decode("utf-8", errors="replace").rstrip("\ufffd")  # whose last character may be cut
    if "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text):
        raise CheckpointError(f"text, not a checkpoint; it begins {text.strip()[:60]!r}")


def _open_pt(path: Path) -> dict[Any, Any]:
    try:
        return _tensors_in(open_archive(path))
    except Exception:  # PyTorch reads more, and says what is wrong with the rest
        return _open_by_torch(path)


def _open_by_torch(path: Path) -> dict[Any, Any]:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"reading it needs PyTorch: {INSTALL_HINT}") from error
    try:
        return _tensors_in(torch.load(path, map_location="cpu", weights_only=True))
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        other = re.search(r"GLOBAL (\S+) was not", str(error))
        what = f"it holds {other[1]}" if other else "the file is damaged, or holds code or objects"
        raise CheckpointError(
            f"{what} besides tensors; nothing in it was executed (torch.save({{'model': model.state_dict()}}, path) "
            "writes the tensors alone)"
        ) from error
    except Exception as error:  # PyTorch raises many kinds for a damaged file.
        raise CheckpointError(f"damaged or not a PyTorch file: {first_line(error)}") from error


def _tensors_in(content: Any) -> dict[Any, Any]:
    """The tensors in nested dictionaries as `StoredTensor`, without what else lies in them."""
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"the file must hold a dictionary of tensors, under 'model' as officially; got a {kind}")
    found: dict[Any, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found[key] = _tensors_in(value)
        elif isinstance(value, StoredTensor):
            found[key] = value
        elif hasattr(value, "detach"):
            found[key] = StoredTensor(tuple(value.shape), functools.partial(as_array, value))
    return found


def as_array(tensor: Any) -> np.ndarray:
    """A PyTorch tensor's numbers, also of a parameter; of types that NumPy lacks as float32."""
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f"a tensor of {tensor.layout} {tensor.dtype} is no array: {first_line(error)}") from error


def _open_safetensors(path: Path) -> dict[Any, Any]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise CheckpointError(f"reading it needs safetensors: {INSTALL_HINT}") from error

    try:
        with safe_open(path, framework="np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"damaged or not a safetensors file: {first_line(error)}") from error

    def read(name: str) -> np.ndarray:
        # Opened for each tensor: the file is mapped, and what has been read of it counts as memory until it is closed.
        with safe_open(path, framework="np") as file:
            return file.get_tensor(name)

    return {name: StoredTensor(shape, functools.partial(read, name)) for name, shape in shapes.items()}


def first_line(error: Exception) -> str:
    """What an error says, of which libraries add pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
