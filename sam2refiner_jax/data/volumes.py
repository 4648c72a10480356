"""Stacks of slices: NIfTI files and TIFFs of several pages, read as grey pictures, written as numbers of objects."""

import dataclasses
import gzip
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Integer, Num, UInt8

from ..atomic import new_file

__all__ = ["VOLUME_SUFFIXES", "Volume", "is_volume", "open_volume", "save_numbers", "tags_of_volume", "volume_stem"]

NIFTI, TIFF = (".nii", ".nii.gz"), (".tif", ".tiff")
VOLUME_SUFFIXES = NIFTI + TIFF
# What a window that nobody chose leaves out at either end, in percent of the values.
OUTLIERS = 0.5
# NIfTI's code of a header extension that is text.
COMMENT = "comment"


@dataclasses.dataclass(frozen=True)
class Volume:
    """A stack of slices of one size.

    Attributes:
      path: where it was read.
      values: the slices, and in colour their channels.
      axis: of the array in the file, along which the slices are.
      header: NIfTI's affine and header, which its results share; None of a TIFF.
    """

    path: Path
    values: Num[np.ndarray, "n h w"] | Num[np.ndarray, "n h w c"]
    axis: int
    header: tuple[np.ndarray, Any] | None = None

    def pictures(self, window: tuple[float, float] | None = None) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The slices as RGB.

        Args:
          window: the values that become black and white; unless given, those that leave out half a percent of the
            volume at either end, or, of 8 bits, 0 and 255.

        Raises:
          ValueError: if a window's end is not after its start.
        """
        values = self.values if self.values.ndim == 4 else self.values[..., None]
        if window is None:
            finite = values[np.isfinite(values)]
            percent = (OUTLIERS, 100 - OUTLIERS)
            low, high = (0.0, 255.0) if values.dtype == np.uint8 else map(float, np.percentile(finite, percent))
            high = max(high, low + 1e-6 * max(abs(low), 1.0))  # a volume of one value
        else:
            low, high = window
            if not low < high:
                raise ValueError(f"window must be two values, the first smaller, got {low:g} and {high:g}")

        def picture(plane: np.ndarray) -> np.ndarray:
            shares = np.nan_to_num((plane.astype(np.float32) - low) / (high - low), nan=0.0)
            grey = (255 * shares.clip(0, 1)).round().astype(np.uint8)
            return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))

        return [picture(plane) for plane in values]


def is_volume(path: Path) -> bool:
    """Whether a file's name is that of a volume."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def volume_stem(path: Path) -> str:
    """The file's name without what says that it is a volume."""
    ending = max((s for s in VOLUME_SUFFIXES if path.name.lower().endswith(s)), key=len)
    return path.name[: -len(ending)]


def open_volume(path: Path, axis: int | None = None) -> Volume:
    """Reads a volume.

    Args:
      path: a .nii or .nii.gz, of three dimensions, or a .tif or .tiff of several pages.
      axis: of NIfTI's array, along which the slices are; the last unless given. Slices of a NIfTI are shown with its
        first remaining axis to the right and the other downwards. A TIFF's slices are its pages.

    Raises:
      ValueError: naming the file, if it is none of these, or a package that reads it is not installed.
    """
    if not is_volume(path):
        raise ValueError(f"{path} must be a volume: {', '.join(VOLUME_SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    return _open_nifti(path, 2 if axis is None else axis) if _is_nifti(path) else _open_tiff(path, axis)


def save_numbers(
    volume: Volume, numbers: Integer[np.ndarray, "n h w"], path: Path, tags: dict[str, str], *, overwrite: bool = False
) -> None:
    """Writes the numbers of objects in the volume's own format, place and orientation.

    Args:
      volume: that the objects are in.
      numbers: of each slice's pixels, in the order of its slices; of 8 or 16 bits.
      path: the file.
      tags: text to keep in the file (`tags_of_volume`).
      overwrite: replace the file if it is there.
    """
    with new_file(path, overwrite=overwrite) as partial:
        if volume.header is None:
            _package("tifffile").imwrite(
                partial, numbers, photometric="minisblack", compression="zlib", description=json.dumps(tags)
            )
            return
        nibabel, (affine, header) = _package("nibabel"), volume.header
        array = np.moveaxis(numbers.transpose(0, 2, 1), 0, volume.axis)
        image = nibabel.Nifti1Image(array, affine, header.copy())
        image.set_data_dtype(numbers.dtype)
        image.header.set_slope_inter(1.0, 0.0)
        image.header["cal_min"] = image.header["cal_max"] = 0
        image.header.extensions.clear()
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(COMMENT, json.dumps(tags).encode()))
        content = image.to_bytes()
        partial.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)


def tags_of_volume(path: Path) -> dict[str, str]:
    """The text that `save_numbers` kept in a file; nothing of other files."""
    try:
        if _is_nifti(path):
            extensions = _package("nibabel").load(path).header.extensions
            texts = [str(extension.text) for extension in extensions if extension.get_code() == 6]
        else:
            with _package("tifffile").TiffFile(path) as tiff:
                texts = [tiff.pages[0].description]
        found = json.loads(texts[0]) if texts else {}
        return found if isinstance(found, dict) else {}
    except Exception:  # readers of damaged files raise anything
        return {}


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"volumes need {name}: pip install 'sam2refiner_jax[volumes]'") from error


def _open_nifti(path: Path, axis: int) -> Volume:
    nibabel = _package("nibabel")
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel's, zlib's and the system's
        raise ValueError(f"{path} is not a readable NIfTI file: {error}") from error
    if array.ndim > 3 and set(array.shape[3:]) == {1}:
        array = array.reshape(array.shape[:3])
    if array.ndim != 3 or array.dtype.names:
        raise ValueError(f"{path} must hold one grey volume of three dimensions, got {array.shape} of {array.dtype}")
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0, 1 or 2, got {axis}")
    slices = np.moveaxis(array, axis, 0).transpose(0, 2, 1)
    return Volume(path, slices, axis, (image.affine, image.header))


def _open_tiff(path: Path, axis: int | None) -> Volume:
    if axis not in (None, 0):
        raise ValueError(f"axis must be 0 of a TIFF, whose slices are its pages, got {axis}")
    tifffile = _package("tifffile")
    try:
        with tifffile.TiffFile(path) as tiff:
            array, axes = tiff.series[0].asarray(), tiff.series[0].axes
    except Exception as error:  # tifffile's, zlib's and the system's
        raise ValueError(f"{path} is not a readable TIFF: {error}") from error
    is_colour = axes.endswith("S") and array.ndim == 4 and array.shape[-1] in (3, 4)
    if array.ndim != 3 + is_colour or axes.endswith("S") != is_colour or len(array) < 2:
        raise ValueError(f"{path} must hold several slices of one size, grey or in colour, got {array.shape} ({axes})")
    return Volume(path, array[..., :3] if is_colour else array, 0)
