"""SAM2ImagePredictor: masks of photos from prompts, with the interface of the official package 1.1.0."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from ..flat_model import flat_model
from ..nn.mask_decoder import select_single_mask
from ..nn.prompt_encoder import LOGIT_LIMIT, Prompts
from ..pretrained import FromPretrained
from ..sam2 import SAM2
from .canvas import Fit, canvas_of, check_fit
from .conversation import Asked, Conversation
from .encoding import PhotoFeatures, PreparedPhoto, encode_prepared, prepare_photo
from .postprocess import fill_holes_and_remove_specks, resize_masks
from .preprocess import Photo
from .prompts import ObjectPrompts, pack_prompts, read_prompts

__all__ = ["SAM2ImagePredictor"]

Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Masks:
    """Low-resolution logits and predicted IoU, for ambiguous prompts (three masks) and for unambiguous ones (one)."""

    multi: Float[Array, "objects 3 m m"]
    multi_iou: Float[Array, "objects 3"]
    single: Float[Array, "objects 1 m m"]
    single_iou: Float[Array, "objects 1"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RefinedMasks:
    """Refined logits, the low-resolution ones for a next prompt, and predicted IoU.

    One mask for each object or, of a refiner that refines each mask, four: the single one, then the three. `carry` is
    what the refiner is to be given back with the next clicks.
    """

    masks: Float[Array, "objects k _ _"]
    low_res: Float[Array, "objects k m m"]
    iou: Float[Array, "objects k"]
    carry: Any


@jax.jit
def decode_prompts(
    model: SAM2, photos: PhotoFeatures, photo_index: Int[Array | np.ndarray, " objects"], prompts: Prompts
) -> Masks:
    """Masks of a batch of objects, each in the photo that `photo_index` names."""
    features = dataclasses.replace(photos.features, refiner=None).take(photo_index)
    output = model.decode(photos.embedding[photo_index], features, prompts)
    single, single_iou = select_single_mask(output, model.config)
    return Masks(output.masks[:, 1:], output.iou[:, 1:], single, single_iou)


@jax.jit
def refine_prompts(
    model: SAM2,
    photos: PhotoFeatures,
    photo_index: Int[Array | np.ndarray, " objects"],
    prompts: Prompts,
    multimask: Bool[Array, ""] | np.bool_,
    carry: Any,
) -> RefinedMasks:
    """Refined masks: of the best of three masks if `multimask`, else of the single one; or of all four.

    `carry` is what the refiner carried away from the clicks before (`Refiner.initial_carry`).
    """
    assert model.refiner is not None
    assert photos.augmented is not None
    features = photos.features.take(photo_index)
    output = model.decode(photos.augmented[photo_index], features, prompts, with_refiner=True)
    best = 1 + jnp.argmax(output.iou[:, 1:], axis=1)[:, None]
    single, single_iou = select_single_mask(output, model.config)
    if model.refiner.refines_each:
        coarse = jnp.concatenate([single, output.masks[:, 1:]], axis=1)
        iou = jnp.concatenate([single_iou, output.iou[:, 1:]], axis=1)
        refined = model.refine(features, output, coarse, prompts, carry)
        masks = refined.masks
    else:
        coarse = jnp.where(multimask, jnp.take_along_axis(output.masks, best[:, :, None, None], axis=1), single)
        iou = jnp.where(multimask, jnp.take_along_axis(output.iou, best, axis=1), single_iou)
        refined = model.refine(features, output, coarse[:, 0], prompts, carry)
        masks = refined.masks[:, None]
    return RefinedMasks(masks, masks if model.refiner.stride == 4 else coarse, iou, refined.carry)


class SAM2ImagePredictor(FromPretrained):
    """Computes a photo's features once, then predicts masks for any number of prompts.

    Everything compiled has static shapes: one compilation of the encoder serves photos of all sizes, one of the
    decoder 1 to 8 clicks with or without a box or a mask, for one mask or three.

    Args:
      sam_model: from `load_model` or `build_model`.
      mask_threshold: logit above which a pixel belongs to the mask.
      max_hole_area: fill holes of at most this area, in pixels of the low-resolution mask; 0 leaves them.
      max_sprinkle_area: remove specks of at most this area, likewise.
      fit: "squeeze" photos to the model's square input, as officially, or "pad" them to a square first, which keeps
        their proportions.

    Raises:
      ValueError: if `fit` is neither.
    """

    def __init__(
        self,
        sam_model: SAM2,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        *,
        fit: Fit = "squeeze",
    ):
        check_fit(fit)
        self.model = sam_model
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area
        self.fit = fit
        self.reset_predictor()

    @property
    def device(self) -> jax.Device:
        """Where the model's weights are."""
        return next(iter(self.model.no_mem_embed[...].devices()))

    @property
    def features(self) -> PhotoFeatures:
        """What was computed of the photos, on the device.

        Raises:
          RuntimeError: if no photo was set.
        """
        if self._photos is None:
            raise RuntimeError("An image must be set with .set_image(...) before its features are there.")
        return self._photos

    def reset_predictor(self) -> None:
        """Forgets the photos."""
        self._photos: PhotoFeatures | None = None
        self._photo_sizes: list[tuple[int, int]] = []
        self._is_batch = False
        self._conversation = Conversation()

    def prepare(self, image: Photo) -> PreparedPhoto:
        """What `set_image` does on the host, which other threads may do while the device works.

        Args:
          image: as of `set_image`, which takes the result as well.

        Raises:
          TypeError, ValueError: likewise.
        """
        return prepare_photo(self.model, image, self.fit)

    def set_image(self, image: Photo | PreparedPhoto) -> None:
        """Computes the features of a photo.

        Args:
          image: a PIL image, or an array of NumPy or JAX, (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) in RGB order:
            integers in [0, 255], floats in [0, 1], or a 16-bit photo in uint16. Grayscale is repeated to three
            channels, transparency dropped. Or what `prepare` made of one.

        Raises:
          TypeError, ValueError: on anything else.
        """
        self._set_photos([image])

    def set_image_batch(self, image_list: Sequence[Photo | PreparedPhoto]) -> None:
        """Computes the features of several photos, of any sizes, for `predict_batch`. See `set_image`."""
        if not isinstance(image_list, Sequence) or not image_list:
            raise ValueError(f"image_list must be a list of at least one image, got {image_list!r}")
        self._set_photos(image_list)
        self._is_batch = True

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
        *,
        refine: bool | None = None,
        image_index: int = -1,
    ) -> Prediction:
        """Predicts masks in the photo given to `set_image`.

        Several objects can be asked for at once by giving prompts a first axis of objects; results then have it too.

        Args:
          point_coords: (n, 2) clicks, x and y in pixels.
          point_labels: (n,) 1 for a click on the object, 0 for one off it, 2 and 3 for a box's top left and bottom
            right corner, -1 for a point that only pads.
          box: (4,) x0, y0, x1, y1 in pixels, or (2, 2) its corners; with clicks, a box for each object's clicks.
          mask_input: (1, m, m) low-resolution logits of an earlier prediction; m is 256 for 1024-pixel models.
          multimask_output: three masks, for ambiguous prompts such as a single click; otherwise one.
          return_logits: masks as logits instead of 0 and 1.
          normalize_coords: False if coordinates are already in [0, 1] of the photo's width and height.
          refine: let the model's refiner make one fine mask of the best of three masks (`multimask_output`) or of the
            single one, or one of each where it works so (HQ-SAM 2); by default if the model has a refiner. The
            low-resolution logits are then the coarse mask's, unless the refined ones are at that resolution themselves.
          image_index: which of the photos given to `set_image_batch`; the last unless given.

        Returns:
          Masks (c, h, w) of the photo's size, float32; their predicted IoU (c,); their low-resolution logits
          (c, m, m), which can be the next call's `mask_input`.

        Raises:
          RuntimeError: if no photo was set.
          ValueError: on a prompt that cannot be meant, naming the argument.
        """
        if self._photos is None:
            raise RuntimeError("An image must be set with .set_image(...) before mask prediction.")
        count = len(self._photo_sizes)
        if not -count <= image_index < count:
            raise ValueError(f"image_index must be that of one of the {count} photos that were set, got {image_index}")
        prompts = self._read_prompts(image_index, point_coords, point_labels, box, mask_input, normalize_coords)
        return self._predict([(image_index % count, prompts)], multimask_output, return_logits, refine)[0]

    def predict_batch(
        self,
        point_coords_batch: Sequence[ArrayLike | None] | None = None,
        point_labels_batch: Sequence[ArrayLike | None] | None = None,
        box_batch: Sequence[ArrayLike | None] | None = None,
        mask_input_batch: Sequence[ArrayLike | None] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
        *,
        refine: bool | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Predicts masks in each photo given to `set_image_batch`, all objects of all photos in one decoder call.

        Arguments are those of `predict` in lists with one entry a photo; so are the results.
        """
        if not self._is_batch:
            raise RuntimeError("Images must be set with .set_image_batch(...) before batched mask prediction.")
        batches = {
            "point_coords_batch": point_coords_batch,
            "point_labels_batch": point_labels_batch,
            "box_batch": box_batch,
            "mask_input_batch": mask_input_batch,
        }
        photos = len(self._photo_sizes)
        for name, batch in batches.items():
            if batch is not None and len(batch) != photos:
                raise ValueError(f"{name} must have one entry for each of the {photos} photos, got {len(batch)}")
        prompts = []
        for i in range(photos):
            coords, labels, box, mask_input = (None if batch is None else batch[i] for batch in batches.values())
            prompts.append((i, self._read_prompts(i, coords, labels, box, mask_input, normalize_coords)))
        masks, ious, low_res = zip(*self._predict(prompts, multimask_output, return_logits, refine), strict=True)
        return list(masks), list(ious), list(low_res)

    def get_image_embedding(self) -> Float[Array, "b c h w"]:
        """The stride-16 features of the photos, (1, 256, 64, 64) for one photo and a 1024-pixel model."""
        if self._photos is None:
            raise RuntimeError("An image must be set with .set_image(...) to generate an embedding.")
        return self._photos.embedding[: len(self._photo_sizes)].transpose(0, 3, 1, 2)

    def _set_photos(self, photos: Sequence[Photo | PreparedPhoto]) -> None:
        self.reset_predictor()
        prepared = [photo if isinstance(photo, PreparedPhoto) else self.prepare(photo) for photo in photos]
        self._photos = encode_prepared(self.model, prepared)
        self._photo_sizes = [photo.size for photo in prepared]

    def _read_prompts(self, photo: int, coords, labels, box, mask_input, normalize_coords) -> ObjectPrompts:
        return read_prompts(
            coords,
            labels,
            box,
            mask_input,
            photo_size=self._photo_sizes[photo],
            image_size=self.model.config.image_size,
            normalize_coords=normalize_coords,
            fit=self.fit,
        )

    def _predict(
        self,
        prompts: Sequence[tuple[int, ObjectPrompts]],
        multimask_output: bool,
        return_logits: bool,
        refine: bool | None,
    ) -> list[Prediction]:
        if refine and self.model.refiner is None:
            raise ValueError("refine must be False for a model without a refiner; load one: load_model(..., refiner=)")
        packed = pack_prompts([p for _, p in prompts], self.model.config.mask_size)
        photo_index = np.zeros(len(packed.labels), np.int32)
        owners = np.repeat([photo for photo, _ in prompts], [len(p) for _, p in prompts])
        photo_index[: len(owners)] = owners
        if self.model.refiner is None or refine is False:
            masks = decode_prompts(flat_model(self.model), self._photos, photo_index, packed)
            chosen = (masks.multi, masks.multi, masks.multi_iou)
            if not multimask_output:
                chosen = (masks.single, masks.single, masks.single_iou)
        else:
            refined = self._refine(prompts, packed, photo_index, multimask_output)
            chosen = (refined.masks, refined.low_res, refined.iou)
            if self.model.refiner.refines_each:
                kept = slice(1, None) if multimask_output else slice(1)
                chosen = (refined.masks[:, kept], refined.low_res[:, kept], refined.iou[:, kept])
        logits, low_res, iou = map(np.asarray, jax.device_get(chosen))

        results = []
        start = 0
        for photo, p in prompts:
            here = slice(start, start + len(p))
            size = self._photo_sizes[photo]
            results.append(self._postprocess(logits[here], low_res[here], iou[here], size, return_logits))
            start += len(p)
        return results

    def _refine(
        self,
        prompts: Sequence[tuple[int, ObjectPrompts]],
        packed: Prompts,
        photo_index: Int[np.ndarray, " rows"],
        multimask: bool,
    ) -> RefinedMasks:
        """Refined masks, in the light of the clicks on the same objects before."""
        refiner = self.model.refiner
        assert refiner is not None
        asked = [
            Asked(photo, points[:-1], labels[:-1])  # the last one pads
            for photo, p in prompts
            for points, labels in zip(p.points, p.labels, strict=True)
        ]
        before = self._conversation.before(asked, lambda: refiner.initial_carry(len(photo_index)))
        refined = refine_prompts(
            flat_model(self.model), self._photos, photo_index, packed, np.bool_(multimask), before.carry
        )
        self._conversation.go_on(before, asked, refined.carry)
        return refined

    def _postprocess(self, logits, low_res, iou, photo_size: tuple[int, int], return_logits: bool) -> Prediction:
        # Areas are in pixels of the low-resolution mask; refined logits have more pixels.
        pixels = (logits.shape[-1] // low_res.shape[-1]) ** 2
        cleaned = fill_holes_and_remove_specks(
            logits, self.mask_threshold, pixels * self.max_hole_area, pixels * self.max_sprinkle_area
        )
        masks = resize_masks(cleaned, photo_size, canvas_of(photo_size, self.fit))
        if not return_logits:
            masks = (masks > self.mask_threshold).astype(np.float32)
        low_res = np.clip(low_res, -LOGIT_LIMIT, LOGIT_LIMIT)
        if len(low_res) == 1:  # One object: no axis of objects, as officially.
            return masks[0], iou[0], low_res[0]
        return masks, iou, low_res
