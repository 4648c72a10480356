"""`quality`: recent appearances beside frames that tell the object from what looks like it (DAM4SAM)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...config import SAM2Config
from ..slots import EMPTY
from .base import Found, MemoryPolicy, Recalled, Remembered, Situation, newest_first, only, register_memory_policy
from .shapes import boxes_of, largest_component

__all__ = ["Quality", "QualityState"]


class QualityState(NamedTuple):
    """What `quality` knows besides the frames that it keeps.

    Attributes:
      areas: pixels of the last masks that were not empty, not a number where there were fewer.
      spaced: the last frame that began an interval of recent memories, or EMPTY.
      resolving: the last frame that was kept for a distractor, or EMPTY.
    """

    areas: Float[Array | np.ndarray, "rows n"]
    spaced: Int[Array | np.ndarray, " rows"]
    resolving: Int[Array | np.ndarray, " rows"]


@register_memory_policy("quality")
@dataclasses.dataclass(frozen=True)
class Quality(MemoryPolicy):
    """The distractor-aware memory of DAM4SAM (https://arxiv.org/abs/2411.17576, section 3), from the paper's text.

    Half of the slots are recent appearances: the last frame with the object and, before it, every fifth; with temporal
    encodings. The other half resolve distractors: frames in which the object was tracked well while another of the
    decoder's masks reached for something else; the oldest gives way, and they have no temporal encoding, as the frames
    with prompts, which are the paper's first frame. A frame without the object is not kept.

    A frame resolves a distractor if the object is there, the predicted IoU is above 0.8, the mask's area is within 20 %
    of the median of the last ten, the last such frame is five or more ago, and the box of the mask is less than 0.7 of
    the box of the mask together with the largest component of another candidate.

    Left open by the paper and decided here: the median is of frames with the object before this one, and with none
    there is nothing to compare with, so that no frame is kept for a distractor; pixels touch at corners too; memories
    are encoded by their order, as the model knows no greater distances; a frame may be in both halves; areas and boxes
    are those of the low-resolution mask before any refiner.

    Attributes:
      interval: frames from one to the next, in both halves.
      iou_threshold: predicted IoU above which the mask is good.
      area_tolerance: by how much of the median its area may differ.
      area_frames: of how many areas the median is.
      box_ratio: ratio of boxes below which another mask reaches for something else.
    """

    interval: int = 5
    iou_threshold: float = 0.8
    area_tolerance: float = 0.2
    area_frames: int = 10
    box_ratio: float = 0.7

    def initial_state(self, config: SAM2Config, rows: int) -> QualityState:
        none = np.full(rows, EMPTY, np.int32)
        return QualityState(np.full((rows, self.area_frames), np.nan, np.float32), none, none)

    def recall(self, now: Situation) -> Recalled:
        count = now.recent.shape[1]
        recent, ages = jnp.arange(count) < count // 2, now.ages
        exist = (ages >= 1) & (ages < -EMPTY)
        return Recalled(exist, jnp.where(recent, newest_first(ages, exist & recent), count))

    def remember(self, now: Situation, found: Found) -> Remembered:
        state, count = now.state, now.recent.shape[1]
        half = count // 2
        area = jnp.sum(found.masks > 0, axis=(1, 2)).astype(jnp.float32)
        is_there = (area > 0) & (found.object_score_logits > 0)

        # A frame that begins an interval stays; any other gives way to the next.
        ages = now.ages[:, :half]
        newest = jnp.argmin(ages, axis=1)
        stays = jnp.take_along_axis(jnp.asarray(now.recent), newest[:, None], axis=1)[:, 0] == state.spaced
        slot = jnp.where(stays, jnp.argmax(ages, axis=1), newest)
        begins = is_there & self._is_due(now, state.spaced)

        good = found.ious > self.iou_threshold
        median = jnp.nanmedian(state.areas, axis=1)
        steady = jnp.abs(area - median) <= self.area_tolerance * median
        candidate = is_there & good & steady & self._is_due(now, state.resolving)
        resolves = candidate & jax.lax.cond(
            jnp.any(candidate), self._has_distractor, lambda found: jnp.zeros(found.chosen.shape[0], bool), found
        )

        slots = jnp.concatenate(
            [
                only(slot, half) & is_there[:, None],
                only(jnp.argmax(now.ages[:, half:], axis=1), count - half) & resolves[:, None],
            ],
            axis=1,
        )
        areas = jnp.concatenate([state.areas[:, 1:], area[:, None]], axis=1)
        frame = now.frames.frame
        return Remembered(
            slots,
            QualityState(
                jnp.where(is_there[:, None], areas, state.areas),
                jnp.where(begins, frame, state.spaced),
                jnp.where(resolves, frame, state.resolving),
            ),
        )

    def _is_due(self, now: Situation, last: Int[Array, " rows"]) -> Bool[Array, " rows"]:
        return (last == EMPTY) | (now.frames.since(last[:, None])[:, 0] >= self.interval)

    def _has_distractor(self, found: Found) -> Bool[Array, " rows"]:
        candidates = jnp.asarray(found.candidates.masks) > 0
        rows, k, *size = candidates.shape
        mask = (found.masks > 0)[:, None]
        others = largest_component(candidates.reshape(rows * k, *size)).reshape(candidates.shape)
        alone, together = (jnp.prod(boxes_of(m)[..., 2:], axis=-1) for m in (mask, mask | others))
        return jnp.any(alone < self.box_ratio * together, axis=1)
