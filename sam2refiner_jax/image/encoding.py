"""What is computed once a photo, whatever is then asked about it."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..features import ImageFeatures
from ..flat_model import flat_model
from ..sam2 import SAM2
from .canvas import Fit
from .preprocess import Photo, as_rgb, preprocess_image
from .prompts import bucket

__all__ = ["PhotoFeatures", "PreparedPhoto", "encode_photos", "encode_prepared", "prepare_photo"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PhotoFeatures:
    """What is computed once a photo.

    Attributes:
      features: of the encoder.
      embedding: what the mask decoder reads at stride 16.
      augmented: what it reads instead where masks are to be refined; None without a refiner.
    """

    features: ImageFeatures
    embedding: Float[Array, "b h w c"]
    augmented: Float[Array, "b h w c"] | None


@jax.jit
def encode_photos(
    model: SAM2,
    images: Float[Array | np.ndarray, "b s s 3"],
    views: Float[Array | np.ndarray, "b v s s 3"] | None = None,
) -> PhotoFeatures:
    """Features of preprocessed photos; `views` are the refiner's, where they are not to be cut from `images`."""
    features = model.encode(jnp.asarray(images), None if views is None else jnp.asarray(views))
    embedding = model.image_embedding(features)
    augmented = None if model.refiner is None else model.augment(embedding, features)
    return PhotoFeatures(features, embedding, augmented)


@dataclasses.dataclass(frozen=True)
class PreparedPhoto:
    """A photo as the encoder wants it, still on the host.

    Attributes:
      size: height and width of the photo as it came.
      input: the model's input.
      views: the parts of it that a refiner looks at, where they are not to be cut from `input`.
    """

    size: tuple[int, int]
    input: Float[np.ndarray, "s s 3"]
    views: Float[np.ndarray, "v s s 3"] | None


def prepare_photo(model: SAM2, photo: Photo, fit: Fit = "squeeze") -> PreparedPhoto:
    """The host's part of encoding a photo of any size, squeezed or padded to a square: any thread may do it.

    Raises:
      TypeError, ValueError: see `as_rgb`.
    """
    rgb, size, refiner = as_rgb(photo), model.config.image_size, model.refiner
    boxes = () if refiner is None else refiner.source_boxes
    views = np.stack([preprocess_image(rgb, size, box, fit) for box in boxes]) if boxes else None
    return PreparedPhoto((rgb.shape[0], rgb.shape[1]), preprocess_image(rgb, size, fit=fit), views)


def encode_prepared(model: SAM2, photos: Sequence[PreparedPhoto]) -> PhotoFeatures:
    """Features of several photos, rows without meaning after them up to the next power of two.

    Photos go through the encoder in batches of powers of two, 7 of them as 4, 2 and 1. So whatever their number, few
    programs are compiled, here and for the decoder, and no photo is encoded for nothing.
    """
    parts, start = [], 0
    while start < len(photos):
        size = bucket(len(photos) - start + 1) // 2
        batch = photos[start : start + size]
        views = [photo.views for photo in batch if photo.views is not None]
        inputs = np.stack([photo.input for photo in batch])
        parts.append(encode_photos(flat_model(model), inputs, np.stack(views) if views else None))
        start += size
    return parts[0] if len(parts) == 1 else _joined(parts, bucket(len(photos)))


def _joined(parts: Sequence[PhotoFeatures], rows: int) -> PhotoFeatures:
    def joined(*arrays: Array) -> Array:
        missing = rows - sum(len(x) for x in arrays)
        return jnp.concatenate([*arrays, jnp.zeros((missing, *arrays[0].shape[1:]), arrays[0].dtype)])

    return jax.tree.map(joined, *parts)
