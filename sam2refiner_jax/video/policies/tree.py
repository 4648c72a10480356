"""`tree`: several ways in which a clip may be understood, followed side by side (SAM2Long)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

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

__all__ = ["Tree", "TreeState"]

# Keeps the logarithm of a predicted IoU of 0 finite.
EPSILON = 1e-6


class TreeState(NamedTuple):
    """What `tree` knows of a path.

    Attributes:
      score: its accumulated log IoU, less that of the object's best path; minus infinity for a path not begun yet.
      object_score_logits: of the frames in the slots.
    """

    score: Float[Array | np.ndarray, " rows"]
    object_score_logits: Float[Array | np.ndarray, "rows slots"]


@register_memory_policy("tree")
@dataclasses.dataclass(frozen=True)
class Tree(MemoryPolicy):
    """The constrained memory tree of SAM2Long (https://arxiv.org/abs/2410.16268, section 3), from the paper's text.

    An object has three paths, each with memories of its own. Of the three masks that each of them finds in a frame, the
    three of nine with the highest accumulated log IoU go on, each with the memories of the path that it comes from.
    Where all paths are uncertain, the largest absolute object score of any below 2, masks whose predicted IoU is, to
    two decimals, that of a better one give way to others. A path remembers frames in which the object is there and the
    predicted IoU is above a threshold, and attends to the newest of them; keys of the memories are weighted from 0.95
    to 1.05 by the order of their object scores, the prompts' among them.

    Left open by the paper and decided here: the result of a frame is the mask of the path that is best then, as frames
    are given out one by one, and it stays when another path becomes the best; before the first tracked frame there is
    one path; where fewer masks than paths differ to two decimals, the best of the others fill up; with one memory all
    weights are 1; what is weighted are the projected keys; memories are encoded by their order. The threshold of the
    predicted IoU is 0.3 in the paper's text and 0.1 here.

    What is kept with a frame's result is the best path. Where tracking starts again, and does not just go on behind its
    last frame, it starts from that one, with the memories that the results have.

    Attributes:
      width: paths of an object.
      iou_threshold: predicted IoU above which a frame is remembered.
      certainty: absolute object score logit from which a path is certain.
      low: weight of the memory with the lowest object score.
      high: weight of the memory with the highest.
    """

    width: int = 3
    iou_threshold: float = 0.1
    certainty: float = 2.0
    low: float = 0.95
    high: float = 1.05

    @property
    def paths(self) -> int:
        return self.width

    def initial_state(self, config: SAM2Config, rows: int) -> TreeState:
        score = np.where(np.arange(rows) % self.width == 0, 0.0, -np.inf).astype(np.float32)
        return TreeState(score, np.zeros((rows, config.num_maskmem - 1), np.float32))

    def recall(self, now: Situation) -> Recalled:
        ages = now.ages
        exist = (ages >= 1) & (ages < -EMPTY)
        there = jnp.concatenate([jnp.asarray(now.prompted) != EMPTY, exist], axis=1)
        scores = jnp.concatenate([now.prompts.object_score_logits, now.state.object_score_logits], axis=1)
        return Recalled(exist, newest_first(ages, exist), self._weights(scores, there))

    def choose(self, now: Situation, candidates: Candidates) -> Choice:
        k = candidates.ious.shape[1]
        ious = candidates.ious.reshape(-1, self.width * k)
        old = now.state.score.reshape(-1, self.width)
        scores = jnp.repeat(old, k, axis=1) + jnp.log(ious + EPSILON)
        certain = jnp.abs(candidates.object_score_logits.reshape(-1, self.width)) >= self.certainty
        uncertain = ~jnp.any(certain & jnp.isfinite(old), axis=1)

        rank = jnp.argsort(jnp.argsort(-scores, axis=1, stable=True), axis=1)
        shown = jnp.round(ious * 100)
        same = (shown[:, None] == shown[:, :, None]) & (rank[:, None] < rank[:, :, None])
        repeats = jnp.any(same & jnp.isfinite(scores)[:, None], axis=2) & uncertain[:, None]
        # Those that repeat come after all others, and paths that have not begun last.
        order = jnp.argsort(jnp.where(jnp.isfinite(scores), rank + repeats * scores.shape[1], rank.size), axis=1)
        best = order[:, : self.width].reshape(-1)
        return Choice(best % k, best // k)

    def remember(self, now: Situation, found: Found) -> Remembered:
        scores = (now.state.score + jnp.log(found.ious + EPSILON)).reshape(-1, self.width)
        scores = (scores - jnp.max(scores, axis=1, keepdims=True)).reshape(-1)
        keep = (found.ious > self.iou_threshold) & (found.object_score_logits > 0)
        slots = only(jnp.argmax(now.ages, axis=1), now.recent.shape[1]) & keep[:, None]
        seen = jnp.where(slots, found.object_score_logits[:, None], now.state.object_score_logits)
        return Remembered(slots, TreeState(scores, seen))

    def _weights(self, scores: Float[Array, "rows maps"], there: Bool[Array, "rows maps"]) -> Float[Array, "rows maps"]:
        """Evenly from `low` to `high` by the order of the scores; of equal ones the later slot weighs more."""
        slot = jnp.arange(scores.shape[1])
        a, b = scores[:, None], scores[:, :, None]
        below = (a < b) | ((a == b) & (slot[None] < slot[:, None]))
        place = jnp.sum(below & there[:, None], axis=2)
        others = jnp.sum(there, axis=1, keepdims=True) - 1
        return jnp.where(others > 0, self.low + (self.high - self.low) * place / jnp.maximum(others, 1), 1.0)
