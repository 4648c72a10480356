"""The rules of the memory policies in NumPy, one object and one frame at a time, to compare ours with.

Time is counted in frames since the first, in the direction of tracking. A step is told what the decoder found and gives
the mask that is the object's; `memories` is what the next frame attends to. `margin` is the smallest distance of any
comparison so far from turning out otherwise, where that is a matter of rounding.
"""

import itertools

import cv2
import numpy as np

# A memory's temporal encoding where it has none.
NO_TIME = 6


def box_of(mask):
    """x0, y0, x1, y1, the last two beyond the mask; None for an empty one."""
    y, x = np.nonzero(mask)
    return None if len(x) == 0 else (x.min(), y.min(), x.max() + 1, y.max() + 1)


def area_of(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou_of(a, b):
    if a is None or b is None:
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (area_of(a) + area_of(b) - common)


class Rules:
    """What the rules have in common: prompts by time, each a box and an object score."""

    def __init__(self, prompts):
        self.prompts, self.margin = prompts, np.inf

    def above(self, value, threshold):
        self.margin = min(self.margin, abs(value - threshold))
        return value > threshold

    def highest(self, values):
        best, second = np.sort(np.asarray(values, float))[::-1][:2]
        self.margin = min(self.margin, best - second)
        return int(np.argmax(values))


class QualityRules(Rules):
    """DAM4SAM's."""

    def __init__(self, prompts):
        super().__init__(prompts)
        self.seen, self.spaced, self.resolving, self.areas = [], [], [], []

    def step(self, time, masks, ious, score):
        chosen = self.highest(ious)
        mask = masks[chosen]
        area = int(mask.sum())
        if area == 0 or score <= 0:
            return chosen
        self.seen.append(time)
        if not self.spaced or time - self.spaced[-1] >= 5:
            self.spaced.append(time)
        if self._resolves(time, masks, chosen, area, ious[chosen]):
            self.resolving.append(time)
        self.areas.append(area)
        return chosen

    def _resolves(self, time, masks, chosen, area, iou):
        if not self.areas or (self.resolving and time - self.resolving[-1] < 5):
            return False
        median = np.median(self.areas[-10:])
        if not self.above(iou, 0.8) or abs(area - median) * 5 > median:  # 20 %, in whole numbers
            return False
        for i, other in enumerate(masks):
            if i == chosen or not other.any():
                continue
            count, labels, stats, _ = cv2.connectedComponentsWithStats(other.astype(np.uint8), connectivity=8)
            sizes = stats[1:, cv2.CC_STAT_AREA]
            largest = np.flatnonzero(sizes == sizes.max()) + 1
            # Of equal ones that which ends first, in the order of reading.
            ends = [np.flatnonzero(labels.ravel() == label)[-1] for label in largest]
            union = masks[chosen] | (labels == largest[int(np.argmin(ends))])
            assert count > 1
            if area_of(box_of(masks[chosen])) < 0.7 * area_of(box_of(union)):
                return True
        return False

    def memories(self):
        if not self.seen:
            return []
        last = self.seen[-1]
        recent = [last, *[t for t in reversed(self.spaced) if t != last][:2]]
        return [*zip(recent, range(3), strict=False), *((time, NO_TIME) for time in self.resolving[-3:])]


class MotionRules(Rules):
    """SAMURAI's. The filter is four filters of a place and its speed, which do not know of each other."""

    def __init__(self, prompts):
        super().__init__(prompts)
        self.filters, self.time, self.stable, self.kept = None, None, 0, []

    @staticmethod
    def _values(box):
        return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]], float)

    def _start(self, time, box):
        values = self._values(box)
        sides = np.tile(np.maximum(values[2:], 1), 2)
        self.filters = [
            (np.array([value, 0.0]), np.diag([(2 * side / 20) ** 2, (10 * side / 160) ** 2]))
            for value, side in zip(values, sides, strict=True)
        ]
        self.time = time

    def _predict(self, time):
        for at in sorted(self.prompts):
            box, _ = self.prompts[at]
            if at < time and box is not None and (self.time is None or at > self.time):
                self._start(at, box)
                self.stable = 0
        if self.filters is None:
            return None
        frames = time - self.time
        sides = np.tile(np.maximum([self.filters[2][0][0], self.filters[3][0][0]], 1), 2)
        move = np.array([[1.0, frames], [0.0, 1.0]])
        self.filters = [
            (move @ x, move @ p @ move.T + frames * np.diag([(side / 20) ** 2, (side / 160) ** 2]))
            for (x, p), side in zip(self.filters, sides, strict=True)
        ]
        self.time = time
        x, y, w, h = (x[0] for x, _ in self.filters)
        return (x - w / 2, y - h / 2, x + w / 2, y + h / 2)

    def _update(self, box):
        sides = np.tile(np.maximum([self.filters[2][0][0], self.filters[3][0][0]], 1), 2)
        new = []
        for (x, p), side, value in zip(self.filters, sides, self._values(box), strict=True):
            gain = p[:, 0] / (p[0, 0] + (side / 20) ** 2)
            new.append((x + gain * (value - x[0]), p - np.outer(gain, p[0])))
        self.filters = new

    def step(self, time, masks, ious, score):
        predicted = self._predict(time)
        overlaps = [iou_of(predicted, box_of(mask)) for mask in masks]
        heard = predicted is not None and self.stable >= 15
        values = [0.15 * o + 0.85 * i for o, i in zip(overlaps, ious, strict=True)] if heard else ious
        chosen = self.highest(values)
        box, good = box_of(masks[chosen]), self.above(ious[chosen], 0.5)
        if good and score > 0 and (not heard or overlaps[chosen] > 0):
            self.kept.append(time)
        if good and score > 0 and box is not None:
            if predicted is None:
                self._start(time, box)
            else:
                self._update(box)
            self.stable += 1
        else:
            self.stable = 0
        return chosen

    def memories(self):
        return [(time, place) for place, time in enumerate(self.kept[::-1][:6])]


class TreeRules(Rules):
    """SAM2Long's. A path is a score and its memories: time, name of the mask, object score."""

    def __init__(self, prompts):
        super().__init__(prompts)
        self.paths = [(0.0, [])]

    def step(self, time, names, ious, scores):
        """As of the others, with an axis of three paths in front; gives path and mask for each of the new paths."""
        options = []
        for p, (total, _) in enumerate(self.paths):
            for k in range(3):
                options.append((total + np.log(ious[p][k] + 1e-6), p, k))
        options.sort(key=lambda option: -option[0])
        totals = [option[0] for option in options]
        self.margin = min([self.margin, *(a - b for a, b in itertools.pairwise(totals))])
        certain = max(abs(scores[p]) for p in range(len(self.paths)))
        self.margin = min(self.margin, abs(certain - 2))
        if certain < 2:
            different, others, shown = [], [], set()
            for option in options:
                rounded = np.round(np.float32(ious[option[1]][option[2]]) * np.float32(100))
                (others if rounded in shown else different).append(option)
                shown.add(rounded)
            options = different + others
        new = []
        for total, p, k in options[:3]:
            memories = list(self.paths[p][1])
            if ious[p][k] > 0.1 and scores[p] > 0:
                memories.append((time, names[p][k], scores[p]))
            new.append((total, memories))
        self.paths = new
        return [(p, k) for _, p, k in options[:3]]

    def memories(self, path):
        """Time, name and place of each, and the weights, those of prompts first."""
        kept = self.paths[path][1][::-1][:6]
        scores = [score for _, score in self.prompts.values()] + [score for *_, score in kept]
        weights = np.ones(len(scores))
        if len(scores) > 1:
            for place, i in enumerate(np.argsort(scores, kind="stable")):
                weights[i] = 0.95 + 0.1 * place / (len(scores) - 1)
        return [(time, name, place) for place, (time, name, _) in enumerate(kept)], weights
