"""Exemplars: what a model remembers of an object in a picture, from which it is found elsewhere; and their files."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from ..sam2 import SAM2
from .array_archive import ArchiveError, ArrayArchive, save_archive
from .made_with import check_same_model, id_to_save, model_facts

__all__ = ["Exemplar", "Exemplars", "exemplar_arrays", "load_exemplars", "read_exemplar", "save_exemplars"]

WHAT = "file of exemplars"
FORMAT = "sam2refiner_jax exemplars 1"


@dataclasses.dataclass(frozen=True)
class Exemplar:
    """What a model remembers of an object in one picture, whose mask was given; of use to the same model alone.

    Attributes:
      memory: memory features.
      pointer: the object pointer.
      object_score_logit: that of a given mask, 10.
    """

    memory: Float[np.ndarray, "h h cm"]
    pointer: Float[np.ndarray, " c"]
    object_score_logit: float


# By the object's id; an object may have several.
Exemplars = Mapping[Any, Sequence[Exemplar]]


def save_exemplars(path: str | os.PathLike[str], exemplars: Exemplars, model: SAM2, memory_dtype: np.dtype) -> None:
    """Writes them to a file that appears whole or not at all (`TakesExemplars.save_exemplars`)."""
    header = {
        "format": FORMAT,
        "made_with": model_facts(model, memory_dtype),
        "objects": [{"id": id_to_save(obj_id), "count": len(several)} for obj_id, several in exemplars.items()],
    }
    arrays = (
        pair
        for index, several in enumerate(exemplars.values())
        for number, exemplar in enumerate(several)
        for pair in exemplar_arrays(f"{index}/{number}", exemplar)
    )
    save_archive(path, header, arrays)


def load_exemplars(path: str | os.PathLike[str], model: SAM2, memory_dtype: np.dtype) -> dict[Any, list[Exemplar]]:
    """Those in a file (`TakesExemplars.load_exemplars`)."""
    with ArrayArchive(path, WHAT) as archive:
        found = archive.header.get("format")
        if found != FORMAT:
            raise ArchiveError(f"{path} must be a {WHAT} of the form {FORMAT!r}, got {found!r}")
        check_same_model(path, archive.header["made_with"], model_facts(model, memory_dtype))
        return {
            described["id"]: [read_exemplar(archive, f"{index}/{number}") for number in range(described["count"])]
            for index, described in enumerate(archive.header["objects"])
        }


def exemplar_arrays(place: str, exemplar: Exemplar) -> Iterator[tuple[str, Shaped[np.ndarray, "..."]]]:
    """An exemplar as arrays of an archive, under names that begin with `place`."""
    yield f"{place}/memory", exemplar.memory
    yield f"{place}/pointer", exemplar.pointer
    yield f"{place}/score", np.float64(exemplar.object_score_logit).reshape(1)


def read_exemplar(archive: ArrayArchive, place: str) -> Exemplar:
    """The exemplar that `exemplar_arrays` put there."""
    return Exemplar(archive[f"{place}/memory"], archive[f"{place}/pointer"], float(archive[f"{place}/score"][0]))
