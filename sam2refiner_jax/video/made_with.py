"""What memories in files were made with: they mean something to the same model alone."""

import dataclasses
import os
from typing import Any

import numpy as np

from ..checkpoints import weights_checksum
from ..config import SAM2Config
from ..refiners.base import read_refiner_config
from ..sam2 import SAM2
from ..settings import setting_differences

__all__ = ["check_same_model", "id_to_save", "model_facts"]


def model_facts(model: SAM2, memory_dtype: np.dtype) -> dict[str, Any]:
    """What a memory's numbers depend on besides the image and the mask, as plain values."""
    refiner = model.refiner
    return {
        "model": model.config.to_dict(),
        "weights": weights_checksum(model),
        "dtype": model.dtype.name,
        "refiner": None if refiner is None else {"kind": refiner.kind, **dataclasses.asdict(refiner.config)},
        "memory_dtype": np.dtype(memory_dtype).name,
    }


def check_same_model(path: str | os.PathLike[str], earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises a ValueError that names the settings in which a file's predictor and this one differ."""
    differences = setting_differences(_with_later_fields(earlier), _plain(now))
    if differences:
        raise ValueError(f"{path} was made with other settings: {'; '.join(differences)}")


def _with_later_fields(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of an earlier version: fields of configurations that came later have their defaults."""
    try:
        filled = facts | {"model": SAM2Config.from_dict(facts["model"]).to_dict()}
        if facts["refiner"] is not None:
            values = dict(facts["refiner"])
            kind = values.pop("kind")
            filled["refiner"] = {"kind": kind, **dataclasses.asdict(read_refiner_config(kind, values))}
        return _plain(filled)
    except (KeyError, TypeError, ValueError):  # of a later version, or damaged: it differs, or is refused elsewhere
        return facts


def id_to_save(obj_id: Any) -> str | int:
    """An object's id as JSON holds it.

    Raises:
      ValueError: if it is neither text nor a whole number.
    """
    if isinstance(obj_id, (int, np.integer)) and not isinstance(obj_id, bool):
        return int(obj_id)
    if isinstance(obj_id, str):
        return obj_id
    raise ValueError(f"obj_id must be text or a whole number where it is saved, got {obj_id!r}")


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
