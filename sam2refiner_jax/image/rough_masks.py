"""Finer masks from rough ones that exist already: prompts found in each mask, several rounds, no training.

In the manner of SAMRefiner (Lin et al., ICLR 2025, arXiv 2502.06756): a box, a click far inside and one far outside,
and the mask itself, less sure the nearer to its edge.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from .boxes import box_around
from .canvas import Fit, on_canvas
from .predictor import SAM2ImagePredictor

__all__ = ["Improved", "MaskPrompts", "improve_masks", "prompts_of"]

# The mask prompt is sure, at logits of this size, where the edge is so far away as a share of the object's size (the
# root of its area).
SURE_LOGIT, SURE_DISTANCE = 10.0, 0.1
# A click off the object is this many pixels away from it at least; with less room there is none.
CLICK_DISTANCE = 3.0


@dataclasses.dataclass(frozen=True)
class MaskPrompts:
    """What `SAM2ImagePredictor.predict` is asked about one object.

    Attributes:
      points: a click on the object, the pixel farthest from its edge, and one off it, farthest within the box.
      labels: theirs: 1, and 0 or, where there is no room for one off the object, -1.
      box: x0, y0, x1, y1, as `box_around` gives them.
      mask: logits of low resolution, which grow with the distance to the edge.
    """

    points: Float[np.ndarray, "2 2"]
    labels: Int[np.ndarray, " 2"]
    box: Float[np.ndarray, " 4"]
    mask: Float[np.ndarray, "1 m m"]


@dataclasses.dataclass(frozen=True)
class Improved:
    """A mask made finer.

    Attributes:
      logits: of the finer mask, at the photo's size.
      predicted_iou: what the model thinks of it.
      agreement: its IoU with the rough mask.
    """

    logits: Float[np.ndarray, "h w"]
    predicted_iou: float
    agreement: float

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        return self.logits > 0

    def is_believed(self, least: float) -> bool:
        """Whether it has enough to do with the rough mask, at least this IoU, to be taken instead of it."""
        return self.agreement >= least


def prompts_of(mask: Bool[np.ndarray, "h w"], mask_size: int, fit: Fit = "squeeze") -> MaskPrompts:
    """Prompts that describe a rough mask.

    Args:
      mask: the mask; not empty.
      mask_size: side of mask prompts.
      fit: whether the photo is squeezed or padded to a square.
    """
    box = np.array(box_around(mask), np.float32)
    x0, y0, x1, y1 = box.astype(int)
    padded = np.pad(mask, 1)  # the photo's edge is one of the object's
    inside = cv2.distanceTransform(padded.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if mask.all():
        outside = np.zeros_like(outside)
    y, x = np.unravel_index(inside.argmax(), mask.shape)
    in_box = outside[y0 : y1 + 1, x0 : x1 + 1]
    far_y, far_x = np.unravel_index(in_box.argmax(), in_box.shape)
    has_room = in_box.max() >= CLICK_DISTANCE
    points = np.array([[x, y], [x0 + far_x, y0 + far_y]], np.float32)
    signed = (inside - outside) / (SURE_DISTANCE * np.sqrt(mask.sum()))
    whole = on_canvas(signed.astype(np.float32), fit, -1.0)
    small = cv2.resize(whole, (mask_size, mask_size), interpolation=cv2.INTER_LINEAR)
    return MaskPrompts(
        points,
        np.array([1, 0 if has_room else -1], np.int32),
        box,
        (SURE_LOGIT * np.clip(small, -1, 1))[None],
    )


def improve_masks(
    predictor: SAM2ImagePredictor, masks: Sequence[Bool[np.ndarray, "h w"]], *, rounds: int = 1
) -> list[Improved]:
    """Finer masks of objects in the photo that was given to the predictor, all of them at once.

    Args:
      predictor: after `set_image`.
      masks: rough masks of the photo's size, none of them empty.
      rounds: how often; from the second on the prompts are found in the result of the round before.

    Raises:
      ValueError: if there is no round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    side = predictor.model.config.mask_size
    current = list(masks)
    for _ in range(rounds):
        # Where a round lost its object, the next one begins with the rough mask again.
        prompts = [
            prompts_of(mask if mask.any() else rough, side, predictor.fit)
            for mask, rough in zip(current, masks, strict=True)
        ]
        logits, ious, _ = predictor.predict(
            point_coords=np.stack([p.points for p in prompts]),
            point_labels=np.stack([p.labels for p in prompts]),
            box=np.stack([p.box for p in prompts]),
            mask_input=np.stack([p.mask for p in prompts]),
            multimask_output=False,
            return_logits=True,
        )
        logits = logits.reshape(len(prompts), *masks[0].shape)
        current = list(logits > 0)
    agreements = [
        float((mask & rough).sum() / max((mask | rough).sum(), 1)) for mask, rough in zip(current, masks, strict=True)
    ]
    return [Improved(*values) for values in zip(logits, map(float, np.ravel(ious)), agreements, strict=True)]
