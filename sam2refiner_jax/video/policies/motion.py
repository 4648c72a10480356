"""`motion`: masks that agree with a Kalman filter over boxes, and memories by thresholds (SAMURAI)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...config import SAM2Config
from ..slots import EMPTY
from .base import (
    Candidates,
    Choice,
    Found,
    MemoryPolicy,
    Recalled,
    Remembered,
    Situation,
    newest_first,
    only,
    register_memory_policy,
)
from .shapes import box_iou, boxes_of

__all__ = ["Motion", "MotionState"]

# Standard deviations, in sides of the box, of a measured side and of a frame's change of speed, as in DeepSORT
# (https://arxiv.org/abs/1703.07402), which SAMURAI's text does not give.
POSITION_NOISE, SPEED_NOISE = 1 / 20, 1 / 160


class MotionState(NamedTuple):
    """The Kalman filter.

    Attributes:
      mean: centre x and y, width and height of the box in pixels of the low-resolution mask, then their change a frame.
      covariance: of these.
      frame: the frame that they are of, or EMPTY before there was a box.
      stable: for how many frames on end the filter has been updated.
    """

    mean: Float[Array | np.ndarray, "rows 8"]
    covariance: Float[Array | np.ndarray, "rows 8 8"]
    frame: Int[Array | np.ndarray, " rows"]
    stable: Int[Array | np.ndarray, " rows"]


class Predicted(NamedTuple):
    """The filter at the present frame, before its box is known; `started` unless there was no box yet."""

    mean: Float[Array, "rows 8"]
    covariance: Float[Array, "rows 8 8"]
    started: Bool[Array, " rows"]
    stable: Int[Array, " rows"]


@register_memory_policy("motion")
@dataclasses.dataclass(frozen=True)
class Motion(MemoryPolicy):
    """The motion model and memory selection of SAMURAI (https://arxiv.org/abs/2411.11922, section 4), from its text.

    A Kalman filter with constant speed predicts the object's box. Once it has been updated for some frames on end, the
    mask is that with the highest weighted sum of the IoU of its box with the predicted one and of its predicted IoU;
    until then, that of the highest predicted IoU. A frame is remembered if its predicted IoU, its object score and, if
    the filter had a say, its boxes' IoU are above their thresholds; attended to are the newest of these frames.

    Left open by the paper and decided here: the filter's noise (DeepSORT's); an update is successful, and is made at
    all, if the object is there and its predicted IoU is above the threshold for memories; 15 such frames on end make
    the filter stable; the thresholds 0.5, 0 and 0; a frame with a prompt starts the filter anew with its box; there is
    no limit to how far back memories may be; they are encoded by their order; boxes are those of the low-resolution
    mask before any refiner.

    Attributes:
      weight: of the boxes' IoU in the choice of the mask.
      stable_frames: successful updates on end after which the filter is heard.
      mask_threshold: predicted IoU above which a frame is remembered.
      object_threshold: object score logit above which it is.
      motion_threshold: IoU of boxes above which it is.
      look_back: frames after which a memory is not attended to any more; None for no limit.
    """

    weight: float = 0.15
    stable_frames: int = 15
    mask_threshold: float = 0.5
    object_threshold: float = 0.0
    motion_threshold: float = 0.0
    look_back: int | None = None

    def initial_state(self, config: SAM2Config, rows: int) -> MotionState:
        return MotionState(
            np.zeros((rows, 8), np.float32),
            np.zeros((rows, 8, 8), np.float32),
            np.full(rows, EMPTY, np.int32),
            np.zeros(rows, np.int32),
        )

    def recall(self, now: Situation) -> Recalled:
        ages = now.ages
        exist = (ages >= 1) & (ages < (-EMPTY if self.look_back is None else self.look_back + 1))
        return Recalled(exist, newest_first(ages, exist))

    def choose(self, now: Situation, candidates: Candidates) -> Choice:
        predicted = _predict(now)
        overlap = box_iou(predicted.mean[:, None, :4], boxes_of(candidates.masks > 0))
        weighted = self.weight * overlap + (1 - self.weight) * candidates.ious
        return Choice(jnp.argmax(jnp.where(self._is_heard(predicted)[:, None], weighted, candidates.ious), axis=1))

    def remember(self, now: Situation, found: Found) -> Remembered:
        predicted = _predict(now)
        box, is_good = boxes_of(found.masks > 0), found.ious > self.mask_threshold
        agrees = box_iou(predicted.mean[:, :4], box) > self.motion_threshold
        keep = is_good & (found.object_score_logits > self.object_threshold) & (agrees | ~self._is_heard(predicted))

        is_success = is_good & (found.object_score_logits > 0) & (box[:, 2] > 0)
        mean, covariance = _where(is_success, _update(predicted.mean, predicted.covariance, box), predicted[:2])
        mean, covariance = _where(predicted.started, (mean, covariance), _start(box))
        has_box = predicted.started | is_success
        state = MotionState(
            mean,
            covariance,
            jnp.where(has_box, now.frames.frame, EMPTY),
            jnp.where(is_success, predicted.stable + 1, 0),
        )
        count = now.recent.shape[1]
        return Remembered(only(jnp.argmax(now.ages, axis=1), count) & keep[:, None], state)

    def _is_heard(self, predicted: Predicted) -> Bool[Array, " rows"]:
        return predicted.started & (predicted.stable >= self.stable_frames)


def _where(condition: Bool[Array, " rows"], a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y), tuple(a), tuple(b))


def _noise(mean: Float[Array, "rows n"], of_sides: float, of_speeds: float) -> Float[Array, "rows 8 8"]:
    """A diagonal covariance, from standard deviations in sides of the box, which is a pixel wide at least."""
    sides = jnp.tile(jnp.maximum(mean[:, 2:4], 1), 2)
    deviations = jnp.concatenate([of_sides * sides, of_speeds * sides], axis=1)
    return jax.vmap(jnp.diag)(deviations**2)


def _start(box: Float[Array, "rows 4"]) -> tuple[Float[Array, "rows 8"], Float[Array, "rows 8 8"]]:
    """The filter of one box, whose speed nobody knows."""
    return jnp.pad(box, ((0, 0), (0, 4))), _noise(box, 2 * POSITION_NOISE, 10 * SPEED_NOISE)


def _update(mean: Float[Array, "rows 8"], covariance: Float[Array, "rows 8 8"], box: Float[Array, "rows 4"]):
    """The filter when the box was measured."""
    with jax.default_matmul_precision("highest"):
        innovation = covariance[:, :4, :4] + _noise(mean, POSITION_NOISE, SPEED_NOISE)[:, :4, :4]
        gain = jnp.linalg.solve(innovation, covariance[:, :4]).mT
        mean = mean + (gain @ (box - mean[:, :4])[:, :, None])[:, :, 0]
        return mean, covariance - gain @ covariance[:, :4]


def _predict(now: Situation) -> Predicted:
    """The filter at the present frame, begun anew by the last frame with a prompt if that is later than its own."""
    state = now.state
    ages = jnp.where(jnp.asarray(now.prompted) == EMPTY, -EMPTY, now.frames.since(now.prompted))
    ages = jnp.where((ages >= 1) & (now.prompts.boxes[:, :, 2] > 0), ages, -EMPTY)
    last = jnp.argmin(ages, axis=1)
    prompt_age, box = (x[jnp.arange(last.shape[0]), last] for x in (ages, jnp.asarray(now.prompts.boxes)))
    own_age = jnp.where(state.frame == EMPTY, -EMPTY, now.frames.since(state.frame[:, None])[:, 0])
    begins = prompt_age < own_age
    mean, covariance = _where(begins, _start(box), (state.mean, state.covariance))
    age = jnp.minimum(prompt_age, own_age)
    started = age < -EMPTY
    frames = jnp.where(started, age, 0).astype(jnp.float32)[:, None, None]
    motion = jnp.eye(8) + frames * jnp.eye(8, k=4)
    with jax.default_matmul_precision("highest"):
        noise = frames * _noise(mean, POSITION_NOISE, SPEED_NOISE)
        mean, covariance = (motion @ mean[:, :, None])[:, :, 0], motion @ covariance @ motion.mT + noise
    return Predicted(mean, covariance, started, jnp.where(begins, 0, state.stable))
