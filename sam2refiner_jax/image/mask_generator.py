"""SAM2AutomaticMaskGenerator: masks of all that is in a photo, with the interface of the official package 1.1.0."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from ..flat_model import flat_model
from ..nn.mask_decoder import select_single_mask
from ..nn.prompt_encoder import LOGIT_LIMIT, Prompts
from ..pretrained import FromPretrained
from ..sam2 import SAM2
from .boxes import corners_of
from .canvas import Fit, check_fit
from .coco import compressed_run_lengths, pycocotools_mask, run_lengths
from .crops import Crop, crops_of, near_inner_edge, point_grid
from .encoding import PhotoFeatures, encode_prepared, prepare_photo
from .mask_measures import Grid, draw_masks, measure_masks, without_duplicates
from .postprocess import fill_holes_and_remove_specks
from .predictor import decode_prompts
from .preprocess import Photo, as_rgb
from .prompts import bucket, pack_prompts, read_prompts

__all__ = ["SAM2AutomaticMaskGenerator"]

# The forms of a mask, by `output_mode`.
FORMS: dict[str, Callable[[Bool[np.ndarray, "h w"]], Any]] = {
    "binary_mask": lambda mask: mask,
    "uncompressed_rle": run_lengths,
    "coco_rle": compressed_run_lengths,
}
# Masks that are measured, drawn or refined at once, and the least number of boxes of which duplicates are removed.
CHUNK, FEWEST = 16, 64


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mask that may be given, of one point.

    Attributes:
      logits: its own, on the device.
      which: 0 for the single mask of its point, 1 to 3 for one of three.
      point: x and y in pixels of the crop.
      given: the logits that were a prompt beside the point; None if there were none.
      predicted_iou: what the model thinks of it.
      stability: how little it depends on the threshold.
      box: first column, first row, last column, last row, in pixels of the photo.
    """

    logits: Float[Array, "m m"]
    which: int
    point: Float[np.ndarray, " 2"]
    given: Float[Array, "m m"] | None
    predicted_iou: float
    stability: float
    box: Float[np.ndarray, " 4"]


@dataclasses.dataclass(frozen=True)
class Found:
    """A mask to give, its crop, and its pixels there, eight of a row in a byte."""

    candidate: Candidate
    crop: Crop
    packed: UInt8[np.ndarray, "h w8"]


@dataclasses.dataclass(frozen=True)
class View:
    """A crop of a photo, ready to be asked.

    Attributes:
      crop: the crop.
      photo_size: height and width of the photo.
      features: of the crop.
      fit: whether the crop is squeezed or padded to a square.
    """

    crop: Crop
    photo_size: tuple[int, int]
    features: PhotoFeatures
    fit: Fit

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the crop."""
        x0, y0, x1, y1 = self.crop.box
        return y1 - y0, x1 - x0

    @property
    def grid(self) -> Grid:
        """The crop's pixels."""
        return Grid(self.size, self.photo_size, self.fit)


class SAM2AutomaticMaskGenerator(FromPretrained):
    """Asks for the masks at a grid of points, and gives those that are good, stable, and not given already.

    Thresholds, stability, boxes and duplicates are decided on the device at static shapes; only masks that are given
    leave it. Photos whose sides end in the same multiples of 512 pixels share the compiled programs.

    Args:
      model: from `load_model` or `build_model`.
      points_per_side: of the grid; None with `point_grids`.
      points_per_batch: points that are decoded at once.
      pred_iou_thresh: the model must think more of a mask than this; at 0 all pass.
      stability_score_thresh: a mask must be at least so stable; at 0 all pass.
      stability_score_offset: by how much the threshold is raised and lowered to see how stable a mask is.
      mask_threshold: logit above which a pixel belongs to the mask.
      box_nms_thresh: masks of a crop whose boxes have an IoU above this are of one thing.
      crop_n_layers: layers of crops that are looked at besides the whole photo; layer i has 2^i x 2^i.
      crop_nms_thresh: like `box_nms_thresh`, between crops, of which smaller ones are preferred.
      crop_overlap_ratio: by how much crops overlap, as a share of the photo's shorter side.
      crop_n_points_downscale_factor: layer i has points_per_side / factor^i points a side.
      point_grids: instead of `points_per_side`, the points (n, 2) of each layer, x and y in [0, 1] of a crop's sides.
      min_mask_region_area: holes and specks of at most this area, in pixels of the low-resolution mask, are removed
        before a mask is measured (the official package does so where its CUDA extension is built).
      output_mode: the form of a mask: "binary_mask", "uncompressed_rle", or "coco_rle", which needs pycocotools.
      use_m2m: ask again with each mask itself as a prompt.
      multimask_output: three masks at each point; otherwise one.
      refine: let the model's refiner make each mask that is given finer; by default if the model has a refiner.
      fit: whether photos and crops are squeezed to the model's square input, as officially, or padded to a square.

    Raises:
      ValueError: on arguments that cannot be meant, and where "coco_rle" lacks pycocotools.
    """

    def __init__(
        self,
        model: SAM2,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[Float[np.ndarray, "_ 2"]] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
        *,
        refine: bool | None = None,
        fit: Fit = "squeeze",
    ):
        check_fit(fit)
        if (points_per_side is None) == (point_grids is None):
            raise ValueError("give either points_per_side or point_grids")
        if output_mode not in FORMS:
            raise ValueError(f"output_mode must be one of {', '.join(FORMS)}, got {output_mode!r}")
        if output_mode == "coco_rle":
            pycocotools_mask()
        if points_per_batch < 1 or crop_n_layers < 0:
            raise ValueError(
                f"points_per_batch must be at least 1 and crop_n_layers 0, got {points_per_batch} and {crop_n_layers}"
            )
        if refine and model.refiner is None:
            raise ValueError("refine must be False for a model without a refiner; load one: load_model(..., refiner=)")
        if points_per_side is not None:
            sides = [int(points_per_side / crop_n_points_downscale_factor**i) for i in range(crop_n_layers + 1)]
            if min(sides) < 1:
                raise ValueError(f"points_per_side must leave a point in each layer of crops, got {sides}")
            point_grids = [point_grid(side) for side in sides]
        assert point_grids is not None
        if len(point_grids) <= crop_n_layers:
            raise ValueError(
                f"point_grids must have one for each of {crop_n_layers + 1} layers, got {len(point_grids)}"
            )
        self.model = model
        self.point_grids = point_grids
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.mask_threshold = mask_threshold
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.use_m2m = use_m2m
        self.multimask_output = multimask_output
        self.refine = model.refiner is not None if refine is None else refine
        self.fit = fit

    def generate(self, image: Photo) -> list[dict[str, Any]]:
        """Masks of all that is in a photo.

        Args:
          image: a photo as of `SAM2ImagePredictor.set_image`.

        Returns:
          For each mask a dictionary: `segmentation`, (h, w) bool or run lengths (`output_mode`); `area` in pixels;
          `bbox`, [x, y, width, height]; `predicted_iou`; `point_coords`, [[x, y]] of the point that it is from;
          `stability_score`; `crop_box`, [x, y, width, height] of the crop.
        """
        photo = as_rgb(image)
        height, width = photo.shape[:2]
        crops = crops_of(height, width, self.crop_n_layers, self.crop_overlap_ratio)
        found = [each for crop in crops for each in self._in_view(self._view(photo, crop))]
        if len(crops) > 1:
            boxes = [each.candidate.box for each in found]
            kept = _kept(boxes, [1 / each.crop.area for each in found], self.crop_nms_thresh)
            found = [found[i] for i in kept]
        return [self._record(each, height, width) for each in found]

    def generate_from(self, features: PhotoFeatures, photo_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Masks of all that is in a photo whose features are there already.

        Args:
          features: of the one photo, made with this `fit`, such as `SAM2ImagePredictor.features` after `set_image`.
          photo_size: its height and width.

        Returns:
          As `generate`.

        Raises:
          ValueError: with `crop_n_layers`, whose crops have features of their own.
        """
        if self.crop_n_layers:
            raise ValueError(f"crop_n_layers must be 0 where features are given, got {self.crop_n_layers}")
        height, width = photo_size
        view = View(Crop((0, 0, width, height), 0), photo_size, features, self.fit)
        return [self._record(each, height, width) for each in self._in_view(view)]

    def _view(self, photo: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"], crop: Crop) -> View:
        """A crop of a photo, encoded."""
        x0, y0, x1, y1 = crop.box
        features = encode_prepared(self.model, [prepare_photo(self.model, photo[y0:y1, x0:x1], self.fit)])
        return View(crop, (photo.shape[0], photo.shape[1]), features, self.fit)

    def _in_view(self, view: View) -> list[Found]:
        """The masks to give that are found in a crop."""
        height, width = view.size
        points = (self.point_grids[view.crop.layer] * np.array([width, height])).astype(np.float32)
        batches = range(0, len(points), self.points_per_batch)
        candidates = [c for start in batches for c in self._at_points(view, points[start:][: self.points_per_batch])]
        kept = _kept([c.box for c in candidates], [c.predicted_iou for c in candidates], self.box_nms_thresh)
        found = []
        for start in range(0, len(kept), CHUNK):
            chunk = [candidates[i] for i in kept[start : start + CHUNK]]
            logits = self._refined(view, chunk) if self.refine else _stack([c.logits for c in chunk], CHUNK)
            packed = draw_masks(logits, len(chunk), view.grid, self.mask_threshold)
            found += [Found(candidate, view.crop, pixels) for candidate, pixels in zip(chunk, packed, strict=True)]
        return found

    def _at_points(self, view: View, points: Float[np.ndarray, "n 2"]) -> Iterator[Candidate]:
        """The masks of a batch of points that pass the thresholds."""
        logits, ious, given = self._decode(view, points)
        each = len(ious) // self.points_per_batch  # masks of a point
        ious = ious[: each * len(points)]
        good = np.flatnonzero(ious > self.pred_iou_thresh) if self.pred_iou_thresh > 0 else np.arange(len(ious))
        for start in range(0, len(good), CHUNK):
            chosen = good[start : start + CHUNK]
            masks = _take(logits, np.resize(chosen, CHUNK))
            if self.min_mask_region_area > 0:
                area = float(self.min_mask_region_area)
                masks = jnp.asarray(fill_holes_and_remove_specks(np.asarray(masks), self.mask_threshold, area, area))
            stability, boxes = measure_masks(
                masks, len(chosen), view.grid, self.mask_threshold, self.stability_score_offset
            )
            boxes = (boxes + np.tile(view.crop.box[:2], 2)).astype(np.float32)
            passes = ~near_inner_edge(boxes, view.crop, *view.photo_size)
            if self.stability_score_thresh > 0:
                passes &= stability >= self.stability_score_thresh
            for row in map(int, np.flatnonzero(passes)):
                index = int(chosen[row])
                yield Candidate(
                    _take(masks, row),
                    1 + index % each if self.multimask_output and given is None else 0,
                    points[index // each],
                    _take(given, index) if given is not None and self.refine else None,
                    float(ious[index]),
                    float(stability[row]),
                    boxes[row],
                )

    def _decode(
        self, view: View, points: Float[np.ndarray, "n 2"]
    ) -> tuple[Float[Array, "k m m"], Float[np.ndarray, " k"], Float[Array, "k m m"] | None]:
        """Logits and predicted IoUs of all masks at points, and the masks that were given along with them."""
        prompts = self._prompts(view, points, self.points_per_batch)
        rows = np.zeros(len(prompts.labels), np.int32)
        masks = decode_prompts(flat_model(self.model), view.features, rows, prompts)
        found = (masks.multi, masks.multi_iou) if self.multimask_output else (masks.single, masks.single_iou)
        logits, ious = (x.reshape(-1, *x.shape[2:]) for x in found)
        if not self.use_m2m:
            return logits, np.asarray(ious), None
        given = jnp.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT)
        each = len(given) // len(rows)
        points, labels = (np.repeat(x, each, axis=0) for x in (prompts.points, prompts.labels))
        again = []
        for start in range(0, len(given), len(rows)):
            here = slice(start, start + len(rows))
            asked = Prompts(points[here], labels[here], given[here], np.ones(len(rows), bool))
            again.append(decode_prompts(flat_model(self.model), view.features, rows, asked))
        logits = jnp.concatenate([found.single[:, 0] for found in again])
        return logits, np.concatenate([np.asarray(found.single_iou[:, 0]) for found in again]), given

    def _refined(self, view: View, chunk: Sequence[Candidate]) -> Float[Array, "k _ _"]:
        """Finer logits of candidates, those of the first again where there are fewer."""
        prompts = self._prompts(view, np.stack([c.point for c in chunk]), CHUNK)
        if chunk[0].given is not None:
            given = _stack([c.given for c in chunk], CHUNK)
            prompts = dataclasses.replace(prompts, mask=given, has_mask=np.ones(CHUNK, bool))
        return _refine_chosen(
            flat_model(self.model), view.features, prompts, np.resize([c.which for c in chunk], CHUNK)
        )

    def _prompts(self, view: View, points: Float[np.ndarray, "n 2"], rows: int) -> Prompts:
        """Points as prompts of one object each."""
        config = self.model.config
        labels = np.ones((len(points), 1), np.int32)
        read = read_prompts(
            points[:, None],
            labels,
            None,
            None,
            photo_size=view.size,
            image_size=config.image_size,
            fit=view.fit,
        )
        return pack_prompts([read], config.mask_size, rows)

    def _record(self, found: Found, height: int, width: int) -> dict[str, Any]:
        x0, y0, x1, y1 = found.crop.box
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = np.unpackbits(found.packed, axis=-1)[: y1 - y0, : x1 - x0]
        candidate = found.candidate
        return {
            "segmentation": FORMS[self.output_mode](mask),
            "area": int(mask.sum()),
            "bbox": _corner_and_sides(np.array(corners_of(mask)) if self.refine else candidate.box),
            "predicted_iou": candidate.predicted_iou,
            "point_coords": [(candidate.point + np.array([x0, y0], np.float32)).tolist()],
            "stability_score": candidate.stability,
            "crop_box": _corner_and_sides(np.array(found.crop.box)),
        }


@jax.jit
def _refine_chosen(
    model: SAM2, photos: PhotoFeatures, prompts: Prompts, which: Int[Array | np.ndarray, " n"]
) -> Float[Array, "n _ _"]:
    """Refined logits of the single mask (0) or of one of three (1 to 3) of each object, all in one photo."""
    assert model.refiner is not None
    assert photos.augmented is not None
    rows = jnp.zeros(len(which), jnp.int32)
    features = photos.features.take(rows)
    output = model.decode(photos.augmented[rows], features, prompts, with_refiner=True)
    masks = jnp.concatenate([select_single_mask(output, model.config)[0], output.masks[:, 1:]], axis=1)
    chosen = jnp.take_along_axis(masks, which[:, None, None, None], axis=1)
    if model.refiner.refines_each:
        return model.refine(features, output, chosen, prompts).masks[:, 0]
    return model.refine(features, output, chosen[:, 0], prompts).masks


@jax.jit
def _take(x: Array, rows: Int[Array | np.ndarray, "*k"] | int) -> Array:
    """Rows, or one: compiled for their number, not for which they are."""
    return x[rows]


def _stack(rows: Sequence[Any], count: int) -> Float[Array, "{count} m m"]:
    """Arrays in a batch of this length, the first ones again where there are fewer."""
    return jnp.stack([rows[i % len(rows)] for i in range(count)])


def _kept(boxes: Sequence[np.ndarray], scores: Sequence[float], threshold: float) -> list[int]:
    """The places of the boxes that are no other's duplicates, from the highest score to the lowest."""
    count = bucket(len(boxes), FEWEST)
    padded, exists = np.zeros((count, 4), np.float32), np.arange(count) < len(boxes)
    padded[: len(boxes)] = np.reshape(boxes, (-1, 4))
    padded_scores = np.zeros(count, np.float32)
    padded_scores[: len(boxes)] = scores
    order, stays = map(np.asarray, without_duplicates(padded, padded_scores, exists, threshold))
    return order[stays].tolist()


def _corner_and_sides(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1 - x0, y1 - y0]
