"""The rules of the memory policies: equal to NumPy versions on random sequences of what the decoder may find."""

import dataclasses
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_rules import MotionRules, QualityRules, TreeRules, box_of, iou_of
from small import SMALL, small_model

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.video.memory_bank import MemoryBank, ObjectFrames, PromptFacts
from sam2refiner_jax.video.policies import (
    MEMORY_POLICIES,
    Candidates,
    Found,
    Motion,
    Official,
    Quality,
    Tree,
    memory_policy,
    register_memory_policy,
)
from sam2refiner_jax.video.policies.shapes import box_iou, boxes_of, largest_component
from sam2refiner_jax.video.policies.shapes import box_of as centred_box_of

SEQUENCES, FRAMES, SIDE = 560, 32, 16
FIRST = 100  # backwards as well as forwards


@dataclasses.dataclass
class Sequences:
    """What the decoder finds of many objects, frame by frame in the direction of tracking, and where prompts are.

    Attributes:
      reverse: whether the object is tracked backwards.
      start: the time of its first prompt, before which it is not active.
      second: the time of its second prompt.
      prompt_masks: of both.
      prompt_scores: likewise, object scores.
      masks: (frames, objects, paths, 3, side, side).
      ious: (frames, objects, paths, 3).
      scores: (frames, objects, paths), object scores.
    """

    reverse: np.ndarray
    start: np.ndarray
    second: np.ndarray
    prompt_masks: np.ndarray
    prompt_scores: np.ndarray
    masks: np.ndarray
    ious: np.ndarray
    scores: np.ndarray

    def frame(self, time):
        return FIRST + np.where(self.reverse, -1, 1) * time

    def active(self, time):
        return (time > self.start) & (time != self.second)

    def active_times(self, row):
        return [time for time in range(FRAMES) if self.active(time)[row]]

    def prompts(self, row):
        times = self.start[row], self.second[row]
        return {
            int(time): (box_of(mask), float(score))
            for time, mask, score in zip(times, self.prompt_masks[row], self.prompt_scores[row], strict=True)
        }


def rectangles(rng, centres, sides):
    y, x = np.mgrid[:SIDE, :SIDE]
    cx, cy, w, h = (v[..., None, None] for v in (*np.moveaxis(centres, -1, 0), *np.moveaxis(sides, -1, 0)))
    return (abs(x - cx) <= w / 2) & (abs(y - cy) <= h / 2)


@pytest.fixture(scope="module")
def sequences():
    """A rectangle that moves steadily; candidates are it, it and something else, something else, or nothing."""
    rng = np.random.default_rng(3)
    shape = FRAMES, SEQUENCES
    speed = rng.uniform(-0.2, 0.2, (SEQUENCES, 2))
    centres = rng.uniform(5, 11, (SEQUENCES, 2)) + np.arange(FRAMES)[:, None, None] * speed
    sides = rng.uniform(3, 7, (SEQUENCES, 2)) * rng.uniform(0.9, 1.1, (*shape, 2))
    target = rectangles(rng, centres, sides)
    masks = np.repeat(target[:, :, None], 3, axis=2)
    elsewhere = rectangles(rng, rng.uniform(0, SIDE, (*shape, 3, 2)), rng.uniform(1, 5, (*shape, 3, 2)))
    speckles = rng.random(masks.shape) < 0.02
    kind = rng.choice(5, (*shape, 3), p=[0.35, 0.3, 0.2, 0.1, 0.05])[..., None, None]
    masks = np.select(
        [kind == 1, kind == 2, kind == 3, kind == 4], [masks | elsewhere, elsewhere, masks | speckles, False], masks
    )
    # Mostly good, and often for long, so that filters become stable.
    quality = np.where(rng.random(SEQUENCES) < 0.6, 0.97, 0.5)
    ious = np.where(
        rng.random((*shape, 1)) < quality[:, None], rng.uniform(0.6, 1, (*shape, 3)), rng.random((*shape, 3))
    )
    scores = np.where(rng.random(shape) < quality, 1, rng.choice([-1, 1], shape)) * rng.uniform(0.1, 9, shape)
    start = rng.integers(0, 4, SEQUENCES)
    second = rng.integers(5, 60, SEQUENCES)  # of half of them beyond the end
    prompt_masks = rectangles(rng, rng.uniform(4, 12, (SEQUENCES, 2, 2)), rng.uniform(2, 6, (SEQUENCES, 2, 2)))
    prompt_masks[rng.random((SEQUENCES, 2)) < 0.05] = False
    return Sequences(
        rng.random(SEQUENCES) < 0.5,
        start,
        second,
        prompt_masks,
        rng.uniform(-3, 9, (SEQUENCES, 2)).astype(np.float32),
        masks[:, :, None],
        ious.astype(np.float32)[:, :, None],
        scores.astype(np.float32)[:, :, None],
    )


@pytest.fixture(scope="module")
def branching():
    """Three paths, each of which finds its own; often uncertain, and often with the same IoU to two decimals."""
    rng = np.random.default_rng(5)
    shape = FRAMES, SEQUENCES, 3
    ious = rng.uniform(0.3, 0.95, (*shape, 3)) ** rng.choice([1, 4], (*shape, 1))
    near = np.round(ious[:, :, :1, :1], 2) + rng.uniform(-0.004, 0.004, ious.shape)
    ious = np.where(rng.random(ious.shape) < 0.4, np.clip(near, 0.001, 0.999), ious)
    scores = rng.choice([-1, 1, 1, 1], shape) * rng.uniform(0.1, 2.6, shape)
    start, second = rng.integers(0, 4, SEQUENCES), rng.integers(5, 60, SEQUENCES)
    return Sequences(
        rng.random(SEQUENCES) < 0.5,
        start,
        second,
        np.ones((SEQUENCES, 2, SIDE, SIDE), bool),
        rng.choice([-3.0, 1.0, 10.0], (SEQUENCES, 2)).astype(np.float32),  # as of given masks, they are often equal
        np.zeros((*shape, 3, 1, 1), bool),
        ious.astype(np.float32),
        scores.astype(np.float32),
    )


class Run(NamedTuple):
    """By frame and row: path and mask that were chosen, and what was attended to, prompts first in the weights."""

    path: np.ndarray
    mask: np.ndarray
    recent: np.ndarray
    names: np.ndarray
    exist: np.ndarray
    encoding: np.ndarray
    weights: np.ndarray

    def attended(self, frame, row):
        """Time, name and encoding of each recent memory."""
        there = self.exist[frame, row]
        times = np.abs(self.recent[frame, row] - FIRST)[there]
        found = zip(times, self.names[frame, row][there], self.encoding[frame, row][there], strict=True)
        return sorted((int(time), int(name), int(encoding)) for time, name, encoding in found)


def run(policy, sequences):
    """Our policy on all of them at once. The features of a memory are the name of its mask: 9 t + 3 path + mask."""
    paths = policy.paths
    bank = MemoryBank.empty(SMALL, SEQUENCES, prompted_slots=2, dtype=jnp.float32, policy=policy)
    times = np.stack([sequences.start, sequences.second], axis=1)
    frames = FIRST + np.where(sequences.reverse, -1, 1)[:, None] * times
    bank.prompted.frames[:] = np.repeat(frames, paths, axis=0)
    boxes = [[centred_box_of(mask) for mask in of_object] for of_object in sequences.prompt_masks]
    bank = dataclasses.replace(
        bank,
        prompts=PromptFacts(
            np.repeat(np.float32(boxes), paths, axis=0), np.repeat(sequences.prompt_scores, paths, axis=0)
        ),
    )

    def rows(of_objects):
        return jnp.repeat(of_objects, paths, axis=0)

    def step(bank, given):
        frame, active, time, masks, ious, scores = given
        count = SEQUENCES * paths
        where = ObjectFrames(
            jnp.zeros(count, jnp.int32), rows(frame), jnp.full(count, 1000), rows(jnp.asarray(sequences.reverse))
        )
        active = rows(active)
        masks, ious, scores = (jnp.repeat(x, paths // x.shape[1], axis=1) for x in (masks, ious, scores))
        masks, ious, scores = (x.reshape(count, *x.shape[2:]) for x in (masks, ious, scores))
        candidates = Candidates(jnp.where(masks, 1.0, -1.0), ious, scores)
        now, names = bank.situation(where), bank.recent.values[:, :, 0, 0, 0]
        recalled, choice = policy.recall(now), policy.choose(now, candidates)
        path = jnp.zeros_like(choice.mask) if choice.path is None else choice.path
        if choice.path is not None:
            index = jnp.arange(count)
            index = jnp.where(active, index - index % paths + path, index)
            candidates, bank = jax.tree.map(lambda x: x[index], candidates), bank.going_on_from(index)
        name = (9 * time + 3 * path + choice.mask).astype(jnp.float32)
        features = jnp.broadcast_to(name[:, None, None, None], (count, *bank.recent.values.shape[2:]))
        bank = bank.remember(
            where, features, jnp.zeros((count, SMALL.hidden_dim)), Found(candidates, choice.mask), active
        )
        weights = jnp.ones((count, 8)) if recalled.weights is None else recalled.weights
        return bank, Run(path, choice.mask, now.recent, names, recalled.exist, recalled.encoding, weights)

    time = np.arange(FRAMES)
    given = (
        np.stack([sequences.frame(t) for t in time]).astype(np.int32),
        np.stack([sequences.active(t) for t in time]),
        time.astype(np.int32),
        sequences.masks,
        sequences.ious,
        sequences.scores,
    )
    bank = jax.tree.map(jnp.asarray, bank)
    return jax.device_get(jax.jit(lambda bank, given: jax.lax.scan(step, bank, given)[1])(bank, given))


def clear_ones(rules):
    """The sequences in which no comparison hangs on rounding: nearly all, 500 at least."""
    clear = {row for row, rule in enumerate(rules) if rule.margin > 1e-5}
    assert len(clear) >= 500
    return clear


@pytest.mark.parametrize(("policy", "rules"), [(Quality(), QualityRules), (Motion(), MotionRules)])
def test_choices_and_memories_equal_the_rules(policy, rules, sequences):
    """Forwards and backwards, with prompts before and in the middle."""
    ours = run(policy, sequences)
    objects = [rules(sequences.prompts(row)) for row in range(SEQUENCES)]
    expected = {}
    for row, rule in enumerate(objects):
        name_of = {}
        for time in sequences.active_times(row):
            memories = sorted((t, name_of[t], encoding) for t, encoding in rule.memories())
            found = (x[time, row, 0] for x in (sequences.masks, sequences.ious, sequences.scores))
            mask = rule.step(time, *found)
            name_of[time] = 9 * time + mask
            expected[row, time] = memories, mask
    clear = clear_ones(objects)
    for (row, time), (memories, mask) in expected.items():
        if row in clear:
            assert ours.attended(time, row) == memories, (row, time)
            assert ours.mask[time, row] == mask, (row, time)
    # The rules do come to bear.
    if rules is QualityRules:
        kept = [sum(encoding == 6 for *_, encoding in memories) for memories, _ in expected.values()]
        assert min(kept.count(n) for n in range(4)) > 100
    else:
        best = sequences.ious[:, :, 0].argmax(axis=2)
        assert sum(mask != best[time, row] for (row, time), (_, mask) in expected.items()) > 100


def test_the_tree_equals_its_rules(branching):
    ours = run(Tree(), branching)
    objects = [TreeRules(branching.prompts(row)) for row in range(SEQUENCES)]
    expected = {}
    for row, rule in enumerate(objects):
        for time in branching.active_times(row):
            memories = [rule.memories(path) for path in range(len(rule.paths))]
            names = 9 * time + np.arange(9).reshape(3, 3)
            expected[row, time] = (
                memories,
                rule.step(time, names, branching.ious[time, row], branching.scores[time, row]),
            )
    clear = clear_ones(objects)
    for (row, time), (of_paths, chosen) in expected.items():
        if row not in clear:
            continue
        for at, (memories, weights) in enumerate(of_paths, start=3 * row):
            assert ours.attended(time, at) == sorted(memories), (row, time)
            there, found = ours.exist[time, at], ours.weights[time, at]
            newest_first = np.argsort(ours.encoding[time, at][there])
            assert np.abs(np.r_[found[:2], found[2:][there][newest_first]] - weights).max() < 1e-6
        at = slice(3 * row, 3 * row + 3)
        assert [*zip(ours.path[time, at], ours.mask[time, at], strict=True)] == chosen, (row, time)
    assert sum(chosen[0][0] != 0 for _, chosen in expected.values()) > 1000  # paths do overtake each other


@pytest.fixture(scope="module")
def blobs():
    """Masks with all sorts of parts, one of them empty."""
    rng = np.random.default_rng(0)
    masks = rng.random((40, 24, 31)) < rng.uniform(0.05, 0.7, (40, 1, 1))
    masks[20:] = [cv2.GaussianBlur(rng.random((24, 31)), (0, 0), 1.5) > 0.5 for _ in masks[20:]]
    spiral = np.zeros((24, 31), bool)
    spiral[::4] = spiral[1::8, -1] = spiral[2::8, -1] = spiral[3::8, -1] = True
    spiral[5::8, 0] = spiral[6::8, 0] = spiral[7::8, 0] = True
    masks[0], masks[1] = False, spiral
    assert masks[1:].any(axis=(1, 2)).all()
    return masks


def test_the_largest_component(blobs):
    found = jax.device_get(jax.jit(largest_component)(blobs))
    assert not found[0].any()
    assert (found[1] == blobs[1]).all()
    for mask, part in zip(blobs[1:], found[1:], strict=True):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        sizes = stats[1:, cv2.CC_STAT_AREA]
        assert part.sum() == sizes.max()
        assert (part == (labels == labels[part][0])).all()
    assert count > 1


def test_boxes(blobs):
    boxes = boxes_of(blobs)
    np.testing.assert_array_equal(boxes, [centred_box_of(mask) for mask in blobs])
    for (x, y, w, h), mask in zip(np.asarray(boxes[1:]), blobs[1:], strict=True):
        assert (x - w / 2, y - h / 2, x + w / 2, y + h / 2) == box_of(mask)
    corners = [box_of(mask) for mask in blobs]
    expected = [[iou_of(a, b) for b in corners] for a in corners]
    np.testing.assert_allclose(box_iou(boxes[:, None], boxes[None]), expected, atol=1e-6)


def test_policies_by_name():
    assert memory_policy("tree") == Tree()
    assert memory_policy(Motion(weight=0.5)).weight == 0.5
    assert [memory_policy(name).kind for name in MEMORY_POLICIES] == list(MEMORY_POLICIES)
    message = "memory must be one of official, motion, quality, tree, or a MemoryPolicy; got 'best'"
    with pytest.raises(ValueError, match=message):
        SAM2VideoPredictor(small_model(), memory="best")
    with pytest.raises(ValueError, match="a memory policy named 'tree' exists already"):
        register_memory_policy("tree")(Official)
