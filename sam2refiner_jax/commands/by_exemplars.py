"""`sam2refiner segment` by exemplars: the objects that other pictures show, in each photo."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from ..data.masks import read_objects
from ..image.overlay import draw_overlay
from ..image.preprocess import read_photo
from ..video.exemplars import Exemplar
from ..video.predictor import SAM2VideoPredictor
from ..video.takes_exemplars import FoundInPhoto
from .photo_run import Job
from .prompted import Masks, Prompted, write_results

__all__ = ["ByExemplars", "Example", "make_exemplars", "numbers_of", "read_examples"]


class Example(NamedTuple):
    """A picture, and the number of the object at each of its pixels, 0 where there is none."""

    picture: np.ndarray
    numbers: Integer[np.ndarray, "h w"]


def read_examples(pairs: Sequence[tuple[Path, Path]]) -> list[Example]:
    """Pictures and their masks.

    Raises:
      FileNotFoundError: if a picture is not there.
      ValueError: naming the file that is no picture, or no mask of its picture.
    """
    examples = []
    for picture, mask in pairs:
        photo = read_photo(picture)
        examples.append(Example(photo, read_objects(mask, (photo.shape[0], photo.shape[1]), of="exemplar")))
    return examples


def numbers_of(examples: Sequence[Example]) -> list[int]:
    """The numbers of all objects in them."""
    return sorted({int(number) for each in examples for number in np.unique(each.numbers) if number > 0})


def make_exemplars(predictor: SAM2VideoPredictor, examples: Sequence[Example]) -> dict[int, list[Exemplar]]:
    """The exemplars of each object, by its number; every example that shows it gives one."""
    return {
        number: [
            predictor.make_exemplar(each.picture, each.numbers == number)
            for each in examples
            if (each.numbers == number).any()
        ]
        for number in numbers_of(examples)
    }


class Located(NamedTuple):
    """A photo and what was found in it."""

    photo: np.ndarray
    found: FoundInPhoto


@dataclasses.dataclass(frozen=True)
class ByExemplars:
    """What `run_photos` does with each photo.

    Attributes:
      predictor: of a model.
      exemplars: by the objects' numbers.
      output: the folder for the results.
      settings: what the results depend on.
    """

    predictor: SAM2VideoPredictor
    exemplars: dict[int, list[Exemplar]]
    output: Path
    settings: dict[str, Any]

    @staticmethod
    def files_of(job: Job, output: Path, objects: int) -> list[Path]:
        """The files of a photo's results."""
        masks = [output / f"{job[0].stem}_object{i}.png" for i in range(1, objects)]
        return [*Prompted.files_of(job, output, multimask=False), *masks]

    def files(self, job: Job) -> list[Path]:
        return self.files_of(job, self.output, len(self.exemplars))

    def read(self, job: Job) -> np.ndarray:
        return read_photo(job[0])

    def segment(self, photos: Sequence[np.ndarray]) -> list[Located]:
        return [Located(photo, self.predictor.find_in_photo(photo, self.exemplars)) for photo in photos]

    def write(self, job: Job, found: Located, done_with: dict[str, Any]) -> Path:
        objects = found.found
        masks = Masks((objects.masks > 0)[:, None], objects.predicted_iou[:, None])
        picture: UInt8[np.ndarray, "h w 3"] = draw_overlay(found.photo, masks.masks[:, 0])
        shares = 1 / (1 + np.exp(-objects.object_score_logits.astype(np.float64)))
        facts = [
            {"number": number, "object_score": round(score, 6)}
            for number, score in zip(objects.obj_ids, shares.tolist(), strict=True)
        ]
        return write_results(job[0], self.output, masks, picture, done_with, facts)
