"""HQSeg-44K and its four validation sets, as HQ-SAM releases them.

Source: https://github.com/SysCV/sam-hq, train/README.md and the data sets named in train/train.py.
"""

from pathlib import Path
from typing import NamedTuple

from .files import files_in
from .folders import PairSource, pair_by_stem, require_folder
from .sources import register_source

__all__ = ["TRAINING_SETS", "VALIDATION_SETS", "ImageSet", "open_hqsam_validation", "open_hqseg44k"]


class ImageSet(NamedTuple):
    """A set of the release: its folders of .jpg images and .png masks, below the folder of the data."""

    images: str
    masks: str


TRAINING_SETS = {
    "dis": ImageSet("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt"),
    "thin": ImageSet(
        "thin_object_detection/ThinObject5K/images_train", "thin_object_detection/ThinObject5K/masks_train"
    ),
    "fss": ImageSet("cascade_psp/fss_all", "cascade_psp/fss_all"),
    "duts-tr": ImageSet("cascade_psp/DUTS-TR", "cascade_psp/DUTS-TR"),
    "duts-te": ImageSet("cascade_psp/DUTS-TE", "cascade_psp/DUTS-TE"),
    "ecssd": ImageSet("cascade_psp/ecssd", "cascade_psp/ecssd"),
    "msra": ImageSet("cascade_psp/MSRA_10K", "cascade_psp/MSRA_10K"),
}
VALIDATION_SETS = {
    "dis": ImageSet("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt"),
    "coift": ImageSet("thin_object_detection/COIFT/images", "thin_object_detection/COIFT/masks"),
    "hrsod": ImageSet("thin_object_detection/HRSOD/images", "thin_object_detection/HRSOD/masks_max255"),
    "thin": ImageSet("thin_object_detection/ThinObject5K/images_test", "thin_object_detection/ThinObject5K/masks_test"),
}


@register_source("hqseg44k")
def open_hqseg44k(location: str, sets: tuple[str, ...] = tuple(TRAINING_SETS)) -> PairSource:
    """The 44,320 training images of HQSeg-44K, all sets one after the other.

    Args:
      location: the folder that holds `DIS5K`, `thin_object_detection` and `cascade_psp`.
      sets: which to take, of `TRAINING_SETS`.

    Raises:
      ValueError: naming the set or folder, if there is no such one.
    """
    return _open_sets(location, TRAINING_SETS, sets)


@register_source("hqsam-val")
def open_hqsam_validation(location: str, set: str) -> PairSource:
    """One of the four sets that HQ-SAM is evaluated on.

    Args:
      location: the folder that holds `DIS5K` and `thin_object_detection`.
      set: which, of `VALIDATION_SETS`.

    Raises:
      ValueError: naming the set or folder, if there is no such one.
    """
    return _open_sets(location, VALIDATION_SETS, (set,))


def _open_sets(location: str, known: dict[str, ImageSet], names: tuple[str, ...]) -> PairSource:
    root = require_folder(location)
    parts = []
    for name in names:
        if name not in known:
            raise ValueError(f"a set must be one of {', '.join(known)}, got {name!r}")
        parts.append(_open_set(root, name, known[name]))
    return PairSource(
        [pair for part in parts for pair in part.pairs],
        [problem for part in parts for problem in part.problems],
        [note for part in parts for note in part.notes],
    )


def _open_set(root: Path, name: str, image_set: ImageSet) -> PairSource:
    images, masks = root / image_set.images, root / image_set.masks
    missing = [folder for folder in (images, masks) if not folder.is_dir()]
    if missing:
        return PairSource((), [f"the set {name} must be in the folder {missing[0]}, which does not exist"])
    source = pair_by_stem(files_in(images, (".jpg",)), files_in(masks, (".png",)), masks, prefix=f"{name}/")
    if not source.pairs and not source.problems:
        return PairSource((), [f"the set {name} must have .jpg images in {images}, which has none"])
    return source
