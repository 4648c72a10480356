"""Region maps: every region that an annotator drew in an image is an object, as in BSDS500."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .folders import pictures_in, require_folder
from .pictures import decode_photo, make_sample, read_bytes, read_numbers
from .sources import Sample, register_source

__all__ = ["Region", "RegionSource"]


class Region(NamedTuple):
    """One region of one annotator.

    Attributes:
      image: the file of the image.
      regions: the file of the annotator's map, in which each pixel has the number of its region.
      number: the region's.
    """

    image: str
    regions: str
    number: int


@register_source("regions")
class RegionSource:
    """One sample for each region of each annotator; number 0 is no region.

    Images are `images/SPLIT/ID.jpg`, maps `regions/SPLIT/ID_ANNOTATOR.png`, 8 or 16 bit. All maps are read once, now.

    Args:
      location: the folder that holds `images` and `regions`.
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
        for name in ("images", "regions"):
            if not (folder / name).is_dir():
                raise ValueError(f"{folder} must hold the subfolders images and regions; there is no {folder / name}")
        splits = (split,) if split else sorted(path.name for path in (folder / "images").iterdir() if path.is_dir())
        self.area_range = (min_area, max_area)
        problems: list[str] = []
        regions: list[Region] = []
        maps = [files for name in splits for files in _maps_of(folder, name, problems)]
        with ThreadPoolExecutor() as threads:
            for found in threads.map(self._regions_of, maps):
                if isinstance(found, str):
                    problems.append(found)
                else:
                    regions.extend(found)
        self.regions = tuple(regions[::every])
        # Of each map, all numbers that are taken.
        self.numbers: dict[str, list[int]] = {}
        for region in regions:
            self.numbers.setdefault(region.regions, []).append(region.number)
        self.problems = tuple(problems)

    def _regions_of(self, files: tuple[Path, Path]) -> list[Region] | str:
        """The regions of a map that are large enough and not too large, or what is wrong with it."""
        image, path = files
        try:
            numbers = read_numbers(path)
        except ValueError as error:
            return str(error)
        shares = np.bincount(numbers.ravel()) / numbers.size
        low, high = self.area_range
        return [Region(str(image), str(path), n) for n in range(1, len(shares)) if low <= shares[n] <= high]

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int) -> Sample:
        """The sample; a ValueError names the file that cannot be read or is of another size."""
        sample = self.several(index, 1)
        return {"image": sample["image"], "mask": sample["mask"][..., 0]}

    def several(self, index: int, count: int) -> Sample:
        """The sample with other regions of the same annotator."""
        region = self.regions[index]
        numbers = read_numbers(region.regions)
        others = [number for number in self.numbers[region.regions] if number != region.number]
        chosen = [region.number, *np.random.default_rng(index).permutation(others)[: count - 1]]
        masks = [np.where(numbers == number, np.uint8(255), np.uint8(0)) for number in chosen]
        sample = make_sample(
            decode_photo(read_bytes(region.image), region.image), masks[0], region.image, region.regions
        )
        return {"image": sample["image"], "mask": np.stack(masks, axis=-1)}

    def name_of(self, index: int) -> str:
        region = self.regions[index]
        path = Path(region.regions)
        return f"{path.parent.name}/{path.stem} region {region.number}"


def _maps_of(folder: Path, split: str, problems: list[str]) -> list[tuple[Path, Path]]:
    """The images of a split, each with each of its maps; adds to the problems what is without the other."""
    images, regions = require_folder(folder / "images" / split), folder / "regions" / split
    image_of = {path.stem: path for path in pictures_in(images)}
    maps = [(path.stem.rpartition("_")[0], path) for path in (pictures_in(regions) if regions.is_dir() else ())]
    annotated = {stem for stem, _ in maps}
    for stem, path in image_of.items():
        if stem not in annotated:
            problems.append(f"{path} has no region map: expected {regions / stem}_ANNOTATOR.png")
    problems.extend(f"{path} has no image: expected {images / stem}.jpg" for stem, path in maps if stem not in image_of)
    return [(image_of[stem], path) for stem, path in maps if stem in image_of]
