"""The command `sam2refiner data check`: reads a data set whole and says what is in it and what is broken."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm
from tyro.conf import Positional

from .clips import IMAGES, RESOLUTION
from .hqseg44k import TRAINING_SETS, VALIDATION_SETS
from .masks import OBJECT, EmptyMaskError
from .regions import MAP_FOLDERS
from .sources import Source, find_source

__all__ = ["check", "recognise"]

# Masks without an image that are named; the others are counted.
NAMED_NOTES = 5


class Reading(NamedTuple):
    """What reading a sample gave.

    Attributes:
      group: the part of its name before the last slash, such as its set or clip.
      width: in pixels; 0 if it is broken.
      height: likewise.
      share: of the image that the object covers.
      problem: what is wrong with it; empty if nothing is.
      empty: whether that is an empty mask.
    """

    group: str
    width: int = 0
    height: int = 0
    share: float = 0.0
    problem: str = ""
    empty: bool = False


def check(data: Positional[str]) -> None:
    """Read a data set whole, and report how much there is, its sizes, and every broken file by name.

    The exit status is 1 if anything is broken.

    Args:
      data: A folder, whose layout is recognised, or a source as training takes it, such as davis:DIR?every=5.
    """
    whole = True
    for spec in recognise(data):
        whole = _check_source(spec) and whole
    if not whole:
        raise SystemExit(1)


def recognise(data: str) -> list[str]:
    """The sources in a folder, by how it is laid out; a source stays what it is.

    Raises:
      ValueError: if it is neither a folder nor a source.
    """
    folder = Path(data)
    if not folder.is_dir():
        if ":" in data:
            return [data]
        raise ValueError(f"data must be a folder or a source such as folder:DIR, got {data!r}")
    release = [name for name, part in TRAINING_SETS.items() if (folder / part.images).is_dir()]
    validation = [name for name, part in VALIDATION_SETS.items() if (folder / part.images).is_dir()]
    if release or validation:
        return [f"hqseg44k:{data}"] * bool(release) + [f"hqsam-val:{data}?set={name}" for name in validation]
    if (folder / "images").is_dir() and any((folder / name).is_dir() for name in MAP_FOLDERS):
        return [f"regions:{data}"]
    if (folder / IMAGES).is_dir():
        found = [name for name in (RESOLUTION, "Full-Resolution") if (folder / IMAGES / name).is_dir()]
        return [f"davis:{data}?resolution={name}" for name in found or [""]]
    for description in (*folder.glob("dataset_info.json"), *folder.glob("*/*/dataset_info.json")):
        splits = json.loads(description.read_text())["splits"]
        return [f"tfds:{description.parent}?split={split['name']}" for split in splits]
    return [f"folder:{data}"]


def _check_source(spec: str) -> bool:
    """Prints the report of one source; returns whether all of it is whole."""
    source = find_source(spec)
    with ThreadPoolExecutor() as threads:
        results = threads.map(partial(_read, source), range(len(source)))
        readings = list(tqdm(results, total=len(source), desc="reading", unit=" samples", leave=False))
    found = [*getattr(source, "problems", ())]
    broken = [*found, *(reading.problem for reading in readings if reading.problem)]
    if not readings and not broken:
        broken.append(f"there is not one sample in {spec}")
    print(f"{spec}: {len(readings)} samples, {len(broken)} problems")
    _print_groups(readings)
    _print_sizes([reading for reading in readings if not reading.problem])
    notes = getattr(source, "notes", ())
    for note in notes[:NAMED_NOTES]:
        print(f"  note: {note}")
    if notes[NAMED_NOTES:]:
        print(f"  note: and {len(notes) - NAMED_NOTES} more like these")
    empty = sum(reading.empty for reading in readings)
    if broken:
        print(f"  {len(found)} found without reading, {len(broken) - len(found) - empty} broken, {empty} empty masks:")
    for problem in broken:
        print(f"  - {problem}")
    return not broken


def _read(source: Source, index: int) -> Reading:
    group = source.name_of(index).rpartition("/")[0]
    try:
        sample = source[index]
    except ValueError as error:
        return Reading(group, problem=str(error), empty=isinstance(error, EmptyMaskError))
    height, width = sample["mask"].shape
    return Reading(group, width, height, float((sample["mask"] >= OBJECT).mean()))


def _print_groups(readings: Sequence[Reading]) -> None:
    groups = Counter(reading.group for reading in readings)
    for group, count in groups.items() if len(groups) > 1 else ():
        print(f"  {group}: {count}")


def _print_sizes(readings: Sequence[Reading]) -> None:
    if not readings:
        return
    quantities: dict[str, Sequence[float]] = {
        "width in pixels": [reading.width for reading in readings],
        "height in pixels": [reading.height for reading in readings],
        "object, % of the image": [100 * reading.share for reading in readings],
    }
    for name, values in quantities.items():
        print(f"  {name}: min {min(values):.4g}, median {np.median(values):.4g}, max {max(values):.4g}")
