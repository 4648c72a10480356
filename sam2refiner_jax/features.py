"""What the image encoder makes of images, as a pytree."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = ["ImageFeatures"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageFeatures:
    """What the image encoder makes of a batch of images.

    Attributes:
      embedding: the neck's stride-16 level, without the no-memory embedding.
      high_res: the stride-4 and stride-8 levels as the mask decoder wants them (32 and 64 channels); () with a trunk
        that has none, such as a plain ViT.
      stages: the trunk's outputs, of SAM 2's at strides 4, 8, 16 and 32 (`TrunkConfig.stage_strides`); () where they
        were dropped.
      refiner: what the model's refiner keeps of each image (`SAM2.prepare`); None without one.
    """

    embedding: Float[Array, "b h w c"]
    high_res: tuple[Float[Array, "b _ _ _"], ...]
    stages: tuple[Float[Array, "b _ _ _"], ...] = ()
    refiner: Any = None

    def without_stages(self) -> "ImageFeatures":
        """The same without the trunk's outputs, which only refiners read and which weigh most."""
        return dataclasses.replace(self, stages=())

    def take(self, index: Int[Array | np.ndarray, " objects"]) -> "ImageFeatures":
        """The features of image `index[i]` as row i."""
        return jax.tree.map(lambda x: x[index], self)
