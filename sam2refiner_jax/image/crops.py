"""Where an automatic mask generator looks: grids of points, and crops of the photo, as the official package 1.1.0."""

import dataclasses
import itertools
import math

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["Crop", "crops_of", "near_inner_edge", "point_grid"]

# A box so many pixels from a crop's edge is of something that the edge cuts.
NEAR = 20.0


@dataclasses.dataclass(frozen=True)
class Crop:
    """A part of a photo: x0, y0, x1, y1 in its pixels, and how often the photo's sides are halved for its size."""

    box: tuple[int, int, int, int]
    layer: int

    @property
    def area(self) -> int:
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


def crops_of(height: int, width: int, layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole photo, and of each further layer i 2^i x 2^i crops that overlap.

    Args:
      height: of the photo.
      width: of the photo.
      layers: besides the whole.
      overlap_ratio: of the crops of the first layer, as a share of the photo's shorter side; half of it in the next.
    """
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        side_x, side_y = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        for i, j in itertools.product(range(count), range(count)):
            x0, y0 = i * (side_x - overlap), j * (side_y - overlap)
            crops.append(Crop((x0, y0, min(x0 + side_x, width), min(y0 + side_y, height)), layer))
    return crops


def point_grid(points_per_side: int) -> Float[np.ndarray, "n 2"]:
    """Points (x, y) in [0, 1], row by row, each in the middle of its cell."""
    middles = (np.arange(points_per_side) + 0.5) / points_per_side
    return np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)


def near_inner_edge(boxes: Float[np.ndarray, "n 4"], crop: Crop, height: int, width: int) -> Bool[np.ndarray, " n"]:
    """Whether a box of the photo ends at an edge of the crop that is none of the photo's."""
    photo = np.array([0, 0, width, height])
    near_crop, near_photo = (np.abs(boxes - edges) <= NEAR for edges in (np.array(crop.box), photo))
    return (near_crop & ~near_photo).any(axis=1)
