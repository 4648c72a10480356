"""Region maps: every region that an annotator drew in an image is an object, as in BSDS500."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
from jaxtyping import Integer, Num

from .files import files_in, folders_in, read_bytes
from .folders import require_folder
from .masks import read_numbers
from .pictures import decode_photo, make_sample
from .sources import Sample, register_source

__all__ = ["MAP_FOLDERS", "Region", "RegionSource"]

# The folders that may hold the maps, and how their files' names go on after that of the image.
MAP_FOLDERS = {"regions": "_ANNOTATOR.png", "groundTruth": ".mat"}


class Region(NamedTuple):
    """One region of one annotator.

    Attributes:
      image: the file of the image.
      regions: the file of the annotator's map, in which each pixel has the number of its region.
      place: the map's among those in the file.
      number: the region's.
    """

    image: str
    regions: str
    place: int
    number: int


@register_source("regions")
class RegionSource:
    """One sample for each region of each annotator; number 0 is no region.

    Images are `images/SPLIT/ID.jpg`, maps `regions/SPLIT/ID_ANNOTATOR.png`, 8 or 16 bit, or, as in the `data` folder of
    the BSDS500 release, `groundTruth/SPLIT/ID.mat` with those of all annotators. All maps are read once, now.

    Args:
      location: the folder that holds `images` and `regions` or `groundTruth`.
      split: the subfolder to take; all by default.
      min_area: the smallest region taken, as a share of the image.
      max_area: the largest.
      every: take the first of every so many regions.

    Raises:
      ValueError: if the folder is not laid out like this, the shares are not in order, or `every` is not positive.
    """

    def __init__(
        self,
        location: str,
        split: str | None = None,
        min_area: float = 0.005,
        max_area: float = 0.6,
        every: int = 1,
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        if not 0 <= min_area < max_area <= 1:
            raise ValueError(f"min_area and max_area must be shares in order, got {min_area} and {max_area}")
        folder = require_folder(location)
        kind = next((name for name in MAP_FOLDERS if (folder / name).is_dir()), None)
        if kind is None or not (folder / "images").is_dir():
            raise ValueError(f"{folder} must hold the subfolders images and either of {' and '.join(MAP_FOLDERS)}")
        splits = (split,) if split else [path.name for path in folders_in(folder / "images")]
        self.area_range = (min_area, max_area)
        problems: list[str] = []
        regions: list[Region] = []
        maps = [files for name in splits for files in _maps_of(folder, kind, name, problems)]
        with ThreadPoolExecutor() as threads:
            for found in threads.map(self._regions_of, maps):
                if isinstance(found, str):
                    problems.append(found)
                else:
                    regions.extend(found)
        self.regions = tuple(regions[::every])
        # Of each map, all numbers that are taken.
        self.numbers: dict[tuple[str, int], list[int]] = {}
        for region in regions:
            self.numbers.setdefault((region.regions, region.place), []).append(region.number)
        self.problems = tuple(problems)

    def _regions_of(self, files: tuple[Path, Path]) -> list[Region] | str:
        """The regions of a file's maps that are large enough and not too large, or what is wrong with the file."""
        image, path = files
        low, high = self.area_range
        regions: list[Region] = []
        try:
            for place, numbers in enumerate(_read_maps(path)):
                shares = np.bincount(numbers.ravel()) / numbers.size
                taken = [number for number in range(1, len(shares)) if low <= shares[number] <= high]
                regions.extend(Region(str(image), str(path), place, number) for number in taken)
        except ValueError as error:
            return str(error)
        return regions

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int) -> Sample:
        """The sample; a ValueError names the file that cannot be read or is of another size."""
        sample = self.several(index, 1)
        return {"image": sample["image"], "mask": sample["mask"][..., 0]}

    def several(self, index: int, count: int) -> Sample:
        """The sample with other regions of the same annotator."""
        region = self.regions[index]
        numbers = _read_maps(Path(region.regions))[region.place]
        others = [number for number in self.numbers[region.regions, region.place] if number != region.number]
        chosen = [region.number, *np.random.default_rng(index).permutation(others)[: count - 1]]
        masks = [np.where(numbers == number, np.uint8(255), np.uint8(0)) for number in chosen]
        sample = make_sample(
            decode_photo(read_bytes(region.image), region.image), masks[0], region.image, region.regions
        )
        return {"image": sample["image"], "mask": np.stack(masks, axis=-1)}

    def name_of(self, index: int) -> str:
        region = self.regions[index]
        path = Path(region.regions)
        annotator = f"_{region.place}" if path.suffix.lower() == ".mat" else ""
        return f"{path.parent.name}/{path.stem}{annotator} region {region.number}"


def _maps_of(folder: Path, kind: str, split: str, problems: list[str]) -> list[tuple[Path, Path]]:
    """The images of a split, each with each file of its maps; adds to the problems what is without the other."""
    images, regions = require_folder(folder / "images" / split), folder / kind / split
    image_of = {path.stem: path for path in files_in(images)}
    if kind == "regions":
        files = files_in(regions) if regions.is_dir() else ()
        maps = [(path.stem.rpartition("_")[0], path) for path in files]
    else:
        maps = [(path.stem, path) for path in (files_in(regions, (".mat",)) if regions.is_dir() else ())]
    annotated = {stem for stem, _ in maps}
    for stem, path in image_of.items():
        if stem not in annotated:
            problems.append(f"{path} has no region map: expected {regions / stem}{MAP_FOLDERS[kind]}")
    problems.extend(f"{path} has no image: expected {images / stem}.jpg" for stem, path in maps if stem not in image_of)
    return [(image_of[stem], path) for stem, path in maps if stem in image_of]


def _read_maps(path: Path) -> list[Integer[np.ndarray, "h w"]]:
    """The maps in a picture, which is one, or in a MATLAB file of the BSDS500 release; a ValueError names the file."""
    if path.suffix.lower() != ".mat":
        return [read_numbers(path)]
    data = read_bytes(path)
    try:
        annotators = scipy.io.loadmat(io.BytesIO(data))["groundTruth"].ravel()
        return [_whole_numbers(annotator["Segmentation"][0, 0]) for annotator in annotators]
    except Exception as error:  # of a broken file, loadmat raises nearly anything
        raise ValueError(f"{path} is not a file of BSDS500's region maps: {error}") from error


def _whole_numbers(numbers: Num[np.ndarray, "..."]) -> Integer[np.ndarray, "h w"]:
    """A map of a MATLAB file, where numbers of any kind are stored as doubles unless somebody saw to it."""
    with np.errstate(invalid="ignore"):
        whole = numbers.astype(np.uint16)
    if whole.ndim != 2 or not np.array_equal(whole, numbers):
        raise ValueError(
            f"expected whole numbers from 0 to 65535 in two dimensions, got {numbers.dtype} {numbers.shape}"
        )
    return whole
