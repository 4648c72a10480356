"""The source: samples by number."""

from collections.abc import Sequence

import numpy as np

from ....data.sources import Sample
from .scene import make_scene
from .textures import Textures, list_photos

__all__ = ["TRIES", "Numbered", "ProceduralSource"]

# Scenes tried for one sample, or clip, until one has a target; nine of ten have.
TRIES = 100


class Numbered:
    """What sources of scenes have in common that are made from nothing but numbers.

    Args:
      size: side of the pictures in pixels.
      seed: of the whole source; another seed gives other scenes and other textures.
      photos: folders of photos, searched recursively, for backgrounds and for the surfaces of objects.
      length: number of samples.

    Raises:
      ValueError: if an argument is out of its range or a folder holds no photos.
    """

    def __init__(self, size: int = 256, seed: int = 0, photos: Sequence[str] = (), length: int = 2**31 - 1) -> None:
        if size < 32:
            raise ValueError(f"size must be at least 32 pixels, got {size}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        if length < 1:
            raise ValueError(f"length must be 1 or more, got {length}")
        self.size, self.seed, self.length = size, seed, length
        self.photos = list_photos(photos)

    def __len__(self) -> int:
        return self.length

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(f"index must be in [0, {self.length}), got {index}")
        return int(index)


class ProceduralSource(Numbered):
    """Scenes made from nothing but numbers, without end: sample `i` is the same wherever and whenever it is made."""

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`: {"image": uint8 (size, size, 3) RGB, "mask": uint8 (size, size) coverage 0..255}.

        Raises:
          IndexError: if there is no such sample.
        """
        return self._scene(index, 1)

    def several(self, index: int, count: int) -> Sample:
        """The same sample with other objects of its scene."""
        return self._scene(index, count)

    def _scene(self, index: int, targets: int) -> Sample:
        number, textures = self._checked(index), Textures(self.seed, self.photos)
        for attempt in range(TRIES):
            scene = make_scene(np.random.default_rng((self.seed, number, attempt)), self.size, textures, targets)
            if scene is not None:
                return {"image": scene[0], "mask": scene[1][..., 0] if targets == 1 else scene[1]}
        raise RuntimeError(f"no scene of sample {index} has a target in {TRIES} tries")

    def name_of(self, index: int) -> str:
        """A name for messages."""
        return f"procedural seed {self.seed} sample {index}"
