"""Our models as segmenters: batched, and sharded over the devices."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from ..checkpoints import weights_checksum
from ..flat_model import flat_model
from ..image.canvas import Fit, canvas_of
from ..image.encoding import PhotoFeatures, encode_photos, prepare_photo
from ..image.postprocess import resize_masks
from ..image.predictor import Masks, RefinedMasks, decode_prompts
from ..image.predictor import refine_prompts as refine_batch
from ..image.prompts import ObjectPrompts, pack_prompts, read_prompts
from ..nn.prompt_encoder import LOGIT_LIMIT, Prompts
from ..sam2 import SAM2
from .segmenters import Answer
from .truth_prompts import Prompt

__all__ = ["COARSE", "REFINED", "JaxSegmenter"]

COARSE, REFINED = "coarse", "refined"
PHOTOS = PartitionSpec("photos")
EVERYWHERE = PartitionSpec()


class Encoded(NamedTuple):
    """The features of a batch of photos, on the devices, and the photos' heights and widths."""

    features: PhotoFeatures
    sizes: list[tuple[int, int]]


class JaxSegmenter:
    """A SAM 2 model, with its refiner if it has one: the mask `coarse` is plain SAM 2's, `refined` the refiner's.

    One mask is made for each prompt, never the best of three, as HQ-SAM evaluates. Every device computes batches of one
    size, the last ones filled up, so a photo's masks depend neither on the photos beside it nor on the number of
    devices.

    Args:
      model: from `load_model` or `build_model`.
      name: in reports.
      kinds: the masks to make; all that it can make unless given.
      photos_per_device: that each device takes at once.
      devices: to use; by default all of this process.
      fit: whether photos are squeezed to the model's square input or padded to a square.
    """

    def __init__(
        self,
        model: SAM2,
        name: str,
        *,
        kinds: tuple[str, ...] | None = None,
        photos_per_device: int = 1,
        devices: Sequence[jax.Device] | None = None,
        fit: Fit = "squeeze",
    ):
        devices = devices or jax.local_devices()
        self.name = name
        self.fit = fit
        self.kinds = kinds or ((COARSE,) if model.refiner is None else (COARSE, REFINED))
        self.batch_size = photos_per_device * len(devices)
        self._checksum = weights_checksum(model)
        self._mesh = Mesh(np.array(devices), ("photos",))
        self._model = jax.device_put(model, NamedSharding(self._mesh, EVERYWHERE))

    def settings(self) -> dict[str, Any]:
        model = self._model
        return {
            "segmenter": self.name,
            "dtype": model.dtype.name,
            "weights": self._checksum,
            "image_size": model.config.image_size,
            "fit": self.fit,
        }

    def encode(self, photos: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Encoded:
        prepared = [prepare_photo(self._model, photo, self.fit) for photo in photos]
        images = self._filled_up([photo.input for photo in prepared])
        views = [photo.views for photo in prepared if photo.views is not None]
        seen = self._filled_up(views) if views else None
        features = _encode(flat_model(self._model), self._on_devices(images), self._on_devices(seen), self._mesh)
        return Encoded(features, [photo.size for photo in prepared])

    def segment(self, encoded: Encoded, prompts: Sequence[Prompt | None], kind: str) -> list[Answer | None]:
        read = [
            self._read(prompt, size) if prompt is not None else _nothing()
            for prompt, size in zip(prompts, encoded.sizes, strict=True)
        ]
        read += [_nothing()] * (self.batch_size - len(read))
        packed = self._on_devices(pack_prompts(read, self._model.config.mask_size, rows=len(read)))
        if kind == REFINED:
            before = self._on_devices(self._carry([None if prompt is None else prompt.carry for prompt in prompts]))
            found = _refine(flat_model(self._model), encoded.features, packed, before, self._mesh)
            masks, low_res, carry = jax.device_get((found.masks[:, :1], found.low_res[:, :1], found.carry))
        else:
            found = _decode(flat_model(self._model), encoded.features, packed, self._mesh)
            masks = low_res = jax.device_get(found.single)
            carry = ()
        return [
            None if prompt is None else self._answer(masks[i], low_res[i], size, [x[i] for x in jax.tree.leaves(carry)])
            for i, (prompt, size) in enumerate(zip(prompts, encoded.sizes, strict=True))
        ]

    def _read(self, prompt: Prompt, size: tuple[int, int]) -> ObjectPrompts:
        config = self._model.config
        prompt = prompt.for_model(config.mask_size, self.fit)
        return read_prompts(
            prompt.coordinates,
            prompt.labels,
            prompt.corners,
            prompt.logits,
            photo_size=size,
            image_size=config.image_size,
            fit=self.fit,
        )

    def _answer(self, masks: np.ndarray, low_res: np.ndarray, size: tuple[int, int], carry: Any) -> Answer:
        mask = resize_masks(masks, size, canvas_of(size, self.fit))[0] > 0
        return Answer(mask, np.clip(low_res, -LOGIT_LIMIT, LOGIT_LIMIT), carry)

    def _carry(self, rows: Sequence[list[np.ndarray] | None]) -> Any:
        """What the refiner carried away from each row's clicks before; of those without any, what it begins with."""
        assert self._model.refiner is not None
        leaves, tree = jax.tree.flatten(jax.device_get(self._model.refiner.initial_carry(self.batch_size)))
        leaves = [np.array(leaf) for leaf in leaves]
        for i, row in enumerate(rows):
            for leaf, value in zip(leaves, row or [], strict=False):
                leaf[i] = value
        return jax.tree.unflatten(tree, leaves)

    def _filled_up(self, rows: list[np.ndarray]) -> np.ndarray:
        return np.stack(rows + rows[:1] * (self.batch_size - len(rows)))

    def _on_devices(self, batch: Any) -> Any:
        return jax.device_put(batch, NamedSharding(self._mesh, PHOTOS))


def _nothing() -> ObjectPrompts:
    """The prompts of a row that nobody looks at."""
    return ObjectPrompts(np.zeros((1, 0, 2), np.float32), np.zeros((1, 0), np.int32), None)


# Each device runs the same program on photos of its own; nothing is exchanged.


@functools.partial(jax.jit, static_argnames="mesh")
def _encode(
    model: SAM2, images: Float[Array, "b s s 3"], views: Float[Array, "b v s s 3"] | None, mesh: Mesh
) -> PhotoFeatures:
    specs = (EVERYWHERE, PHOTOS, PHOTOS)
    return jax.shard_map(encode_photos, mesh=mesh, in_specs=specs, out_specs=PHOTOS, check_vma=False)(
        model, images, views
    )


@functools.partial(jax.jit, static_argnames="mesh")
def _decode(model: SAM2, photos: PhotoFeatures, prompts: Prompts, mesh: Mesh) -> Masks:
    def decode(model: SAM2, photos: PhotoFeatures, prompts: Prompts) -> Masks:
        return decode_prompts(model, photos, jnp.arange(len(prompts.labels)), prompts)

    specs = (EVERYWHERE, PHOTOS, PHOTOS)
    return jax.shard_map(decode, mesh=mesh, in_specs=specs, out_specs=PHOTOS, check_vma=False)(model, photos, prompts)


@functools.partial(jax.jit, static_argnames="mesh")
def _refine(model: SAM2, photos: PhotoFeatures, prompts: Prompts, carry: Any, mesh: Mesh) -> RefinedMasks:
    def refine(model: SAM2, photos: PhotoFeatures, prompts: Prompts, carry: Any) -> RefinedMasks:
        return refine_batch(model, photos, jnp.arange(len(prompts.labels)), prompts, jnp.bool_(False), carry)

    specs = (EVERYWHERE, PHOTOS, PHOTOS, PHOTOS)
    return jax.shard_map(refine, mesh=mesh, in_specs=specs, out_specs=PHOTOS, check_vma=False)(
        model, photos, prompts, carry
    )
