"""Folders of images, each with a mask of the same name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .files import files_in, folders_in
from .pictures import read_sample
from .sources import Sample, register_source

__all__ = ["MASKS_OF", "Pair", "PairSource", "open_folder", "pair_by_stem", "require_folder"]

# Folders of images, and what the folder of their masks beside them is called.
MASKS_OF = {"images": "masks", "im": "gt"}
IMAGES_BESIDE_MASKS = (".jpg", ".jpeg")


class Pair(NamedTuple):
    """An image with its mask.

    Attributes:
      name: what messages call the two.
      image: the file of the image.
      mask: the file of the mask.
    """

    name: str
    image: str
    mask: str


class PairSource:
    """Images with masks, one file each.

    Args:
      pairs: the files.
      problems: what is wrong with what was found, a sentence each.
      notes: what was left aside, likewise.
    """

    def __init__(self, pairs: Sequence[Pair], problems: Sequence[str] = (), notes: Sequence[str] = ()):
        self.pairs = tuple(pairs)
        self.problems = tuple(problems)
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """The sample; a ValueError names the file that cannot be read, is of another size, or empty."""
        return read_sample(self.pairs[index].image, self.pairs[index].mask)

    def name_of(self, index: int) -> str:
        return self.pairs[index].name


@register_source("folder")
def open_folder(location: str) -> PairSource:
    """Any folder of image and mask pairs, matched by name without suffix.

    It either has two subfolders, `images` and `masks` (or `im` and `gt`), or holds NAME.jpg beside NAME.png.

    Raises:
      ValueError: if it is neither, saying what was expected and what was found.
    """
    folder = require_folder(location)
    for image_folder, mask_folder in MASKS_OF.items():
        images, masks = folder / image_folder, folder / mask_folder
        if images.is_dir() and masks.is_dir():
            return pair_by_stem(files_in(images), files_in(masks), masks)
    pictures = files_in(folder)
    beside = [path for path in pictures if path.suffix.lower() in IMAGES_BESIDE_MASKS]
    masks_beside = [path for path in pictures if path.suffix.lower() == ".png"]
    if beside and masks_beside:
        return pair_by_stem(beside, masks_beside, folder)
    subfolders = [path.name for path in folders_in(folder)]
    raise ValueError(
        f"{folder} must hold the subfolders {' or '.join(f'{i} and {m}' for i, m in MASKS_OF.items())}, or NAME.jpg "
        f"beside NAME.png; found {len(beside)} .jpg, {len(masks_beside)} .png, "
        f"{len(pictures) - len(beside) - len(masks_beside)} other pictures and the subfolders "
        f"{', '.join(subfolders[:10]) or '(none)'}{', ...' if subfolders[10:] else ''}"
    )


def pair_by_stem(images: Sequence[Path], masks: Sequence[Path], masks_folder: Path, prefix: str = "") -> PairSource:
    """The images, each with the mask that has its name, in the order of the names.

    Args:
      images: files of images.
      masks: files of masks.
      masks_folder: where a missing mask should have been, for the message.
      prefix: before each pair's name.
    """
    problems: list[str] = []
    pairs: list[Pair] = []
    mask_of: dict[str, Path] = {}
    image_of: dict[str, Path] = {}
    for mask in masks:
        if mask.stem in mask_of:
            problems.append(f"{mask} and {mask_of[mask.stem]} are masks of one name")
        mask_of[mask.stem] = mask
    for image in images:
        if image.stem in image_of:
            problems.append(f"{image} and {image_of[image.stem]} are images of one name")
        elif image.stem in mask_of:
            pairs.append(Pair(prefix + image.stem, str(image), str(mask_of[image.stem])))
        else:
            problems.append(f"{image} has no mask: expected {masks_folder / image.stem}.png")
        image_of[image.stem] = image
    notes = [f"{mask} is left aside: there is no image of that name" for mask in masks if mask.stem not in image_of]
    return PairSource(sorted(pairs), problems, notes)


def require_folder(location: str | Path) -> Path:
    """The folder; a ValueError says if there is none."""
    if not str(location) or not Path(location).is_dir():
        raise ValueError(f"a source needs the folder that its images are in, got {str(location)!r}, which is none")
    return Path(location)
