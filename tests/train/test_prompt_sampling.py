import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from sam2refiner_jax.nn.prompt_encoder import ABSENT, BOX_END, BOX_START, NEGATIVE, NOT_A_POINT, POSITIVE
from sam2refiner_jax.train.config import PromptConfig
from sam2refiner_jax.train.losses import uncertain_points
from sam2refiner_jax.train.prompt_sampling import (
    DIVIDED_APART,
    correct_prompts,
    correction_keys,
    divide_objects,
    prompt_keys,
    sample_pixel,
    sample_prompts,
)

SIZE = 64


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """A box, a disk, a single pixel, a frame with a hole, a thin soft line, everything."""
    y, x = np.mgrid[:SIZE, :SIZE]
    line = np.zeros((SIZE, SIZE))
    line[30, 5:60] = 0.3
    masks = [
        (x >= 10) & (x < 30) & (y >= 20) & (y < 50),
        (x - 40) ** 2 + (y - 30) ** 2 < 15**2,
        (x == 7) & (y == 9),
        (np.maximum(abs(x - 32), abs(y - 32)) < 20) & (np.maximum(abs(x - 32), abs(y - 32)) > 10),
        line,
        np.ones((SIZE, SIZE)),
    ]
    return np.stack(masks).astype(np.float32)


@functools.partial(jax.jit, static_argnums=2)
def sampled(keys, masks, config):
    return sample_prompts(keys, masks, config, mask_size=SIZE // 4)


divided = jax.jit(divide_objects, static_argnums=3)


def sample(masks, seed=0, **fields):
    keys = jax.random.split(jax.random.key(seed), len(masks))
    prompts = sampled(keys, jnp.asarray(masks), PromptConfig(**fields))
    return jax.tree.map(np.asarray, prompts)


def divide(masks, seed=0, **fields):
    """Prompts and masks before and after."""
    keys, config = jax.random.split(jax.random.key(seed), len(masks)), PromptConfig(**fields)
    others = jax.random.split(jax.random.key(1000 + seed), len(masks))
    before = sampled(keys, jnp.asarray(masks), config)
    after, left = divided(others, before, jnp.asarray(masks), config)
    return jax.tree.map(np.asarray, (before, after, left))


def only(kind: str) -> dict[str, float]:
    return {name: float(name == kind) for name in ("box", "points", "mask", "box_and_points")}


def test_boxes_are_the_masks_extents(masks):
    prompts = sample(masks, **only("box"), box_noise=0.0)
    for mask, points, labels in zip(masks, prompts.points, prompts.labels, strict=True):
        y, x = np.nonzero(mask >= min(0.5, mask.max()))
        last = max(x.max(), x.min() + 1), max(y.max(), y.min() + 1)
        np.testing.assert_array_equal(points[:2], [[x.min(), y.min()], last])
        assert labels[:2].tolist() == [BOX_START, BOX_END]
        assert (labels[2:-1] == ABSENT).all()
        assert labels[-1] == NOT_A_POINT
    assert not prompts.has_mask.any()


def test_noisy_boxes_move_within_limits(masks):
    exact = sample(masks, **only("box"), box_noise=0.0).points[:, :2]
    moved = np.stack([sample(masks, seed, **only("box"), box_noise=0.2).points[:, :2] for seed in range(20)])
    sides = exact[:, 1] - exact[:, 0]
    limit = np.minimum(20 * SIZE / 1024, 0.4 * sides)[:, None]
    assert (abs(moved - exact) <= limit + 1e-5).all()
    assert (moved[:, :, 1] > moved[:, :, 0]).all()
    assert (moved >= 0).all()
    assert (moved <= SIZE).all()
    assert np.ptp(moved[:, :2], axis=0).min() > 0.5


def test_points_lie_on_the_object_and_negative_ones_near_it(masks):
    found = set()
    for seed in range(10):
        prompts = sample(masks, seed, **only("points"), max_points=6, negative_points=0.5)
        for mask, points, labels in zip(masks, prompts.points, prompts.labels, strict=True):
            assert labels[2] == POSITIVE
            assert (labels[:2] == ABSENT).all()
            inside = mask >= min(0.5, mask.max())
            y, x = np.nonzero(inside)
            for (px, py), label in zip(points[2:-1].astype(int), labels[2:-1], strict=True):
                found.add(int(label))
                if label == POSITIVE:
                    assert inside[py, px]
                elif label == NEGATIVE:
                    assert not inside[py, px]
                    for place, on in ((px, x), (py, y)):
                        margin = 0.25 * (on.max() + 1 - on.min())
                        assert on.min() - margin <= place <= on.max() + 1 + margin
    assert found == {POSITIVE, NEGATIVE, ABSENT}


def test_pixels_are_sampled_evenly():
    inside = np.zeros((8, 8), bool)
    inside[2, 1:7] = inside[5, 3] = inside[6, 0:2] = True
    keys = jax.random.split(jax.random.key(1), 9000)
    x, y = np.asarray(jax.vmap(lambda key: sample_pixel(key, jnp.asarray(inside)))(keys)).astype(int).T
    counts = np.zeros((8, 8))
    np.add.at(counts, (y, x), 1)
    assert (counts[~inside] == 0).all()
    # 9 pixels of 1000 draws each; four standard deviations of a binomial count.
    assert abs(counts[inside] - 1000).max() < 4 * np.sqrt(9000 / 9 * 8 / 9)


def test_coarse_masks_are_coarse_but_of_the_object(masks):
    large = masks[[0, 1, 3]]
    truth = large.reshape(3, 16, 4, 16, 4).mean(axis=(2, 4)) > 0.5
    overlaps = []
    for seed in range(10):
        prompts = sample(large, seed, **only("mask"))
        assert prompts.has_mask.all()
        assert (prompts.labels == ABSENT).all()
        mask = prompts.mask > 0
        overlaps.append((mask & truth).sum((1, 2)) / (mask | truth).sum((1, 2)))
    assert 0.3 < np.mean(overlaps) < 0.95
    # The frame's thin sides may be blurred away; solid objects stay.
    assert np.min(overlaps, axis=0)[:2].min() > 0.2, overlaps


def test_noisy_masks_are_wrong_along_the_boundary_alone(masks):
    """As HQ-SAM's: a mask and its copy, made eight times smaller and large again, differ in a band around its edge."""
    truth = masks[1].reshape(16, 4, 16, 4).mean(axis=(1, 3))
    small = torch.nn.functional.avg_pool2d(torch.from_numpy(truth)[None, None], 8)
    copy = torch.nn.functional.interpolate(small, (16, 16), mode="bilinear")[0, 0].numpy()
    band = abs(truth - copy) >= 0.01
    wrong = np.zeros((16, 16))
    for seed in range(40):
        prompts = sample(masks[1:2], seed, **only("mask"), noisy_masks=True)
        assert set(np.unique(prompts.mask)) <= {0, 255}
        wrong += (prompts.mask[0] > 0) != (truth > 0.5)
    assert wrong[band].min() > 0
    assert wrong[~band].max() == 0
    # A pixel that is all object or all background is wrong as often as noise of variance 1 is above a half.
    pure = band & ((truth == 0) | (truth == 1))
    assert abs(wrong[pure].mean() / 40 - 0.3085) < 0.03


def test_points_are_at_least_so_many(masks):
    counts = [
        (sample(masks, seed, **only("points"), min_points=4, max_points=6).labels[:, 2:8] != ABSENT).sum(axis=1)
        for seed in range(10)
    ]
    assert set(np.unique(counts)) == {4, 5, 6}


def test_mix_follows_its_frequencies(masks):
    many = np.repeat(masks[:1], 4000, axis=0)
    prompts = sample(many, box=1.0, points=2.0, mask=1.0, box_and_points=4.0)
    has_box, has_points = prompts.labels[:, 0] == BOX_START, prompts.labels[:, 2] == POSITIVE
    shares = [
        np.mean(x) for x in (has_box & ~has_points, has_points & ~has_box, prompts.has_mask, has_box & has_points)
    ]
    np.testing.assert_allclose(shares, [1 / 8, 2 / 8, 1 / 8, 4 / 8], atol=0.03)


def test_a_rows_prompts_depend_on_its_key_alone(masks):
    keys = jax.random.split(jax.random.key(3), len(masks))
    config = PromptConfig(box_and_points=1.0)
    whole = sampled(keys, jnp.asarray(masks), config)
    part = sampled(keys[2:4], jnp.asarray(masks[2:4]), config)
    for name in ("labels", "has_mask"):
        np.testing.assert_array_equal(np.asarray(getattr(whole, name))[2:4], getattr(part, name))
    clicks = slice(2, 2 + config.max_points)
    np.testing.assert_array_equal(np.asarray(whole.points)[2:4, clicks], part.points[:, clicks])
    # A program for two rows may round sums and products otherwise than one for six; logits are up to 10.
    np.testing.assert_allclose(np.asarray(whole.points)[2:4], part.points, atol=1e-4)
    np.testing.assert_allclose(np.asarray(whole.mask)[2:4], part.mask, atol=1e-4)


def consumed_keys(program, *arguments) -> list[tuple[int, ...]]:
    """The keys that a program draws from, splits or folds a number into; only what becomes of keys is computed."""
    found = []

    def is_key(atom) -> bool:
        return jnp.issubdtype(atom.aval.dtype, jax.dtypes.prng_key)

    def is_key_or_index(atom) -> bool:
        return is_key(atom) or (atom.aval.size < 16 and jnp.issubdtype(atom.aval.dtype, jnp.integer))

    def interpret(jaxpr, constants, arguments) -> list:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

        def read(atom):
            return atom.val if hasattr(atom, "val") else values.get(atom)

        for equation in jaxpr.eqns:
            operands, name = [read(atom) for atom in equation.invars], equation.primitive.name
            keys = [x for x, atom in zip(operands, equation.invars, strict=True) if is_key(atom)]
            assert all(key is not None for key in keys), equation
            if name in ("random_bits", "random_split", "random_fold_in"):
                found.extend(map(tuple, np.asarray(jax.random.key_data(keys[0])).reshape(-1, 2).tolist()))
            if name in ("pjit", "jit"):
                inner = equation.params["jaxpr"]
                results = interpret(inner.jaxpr, inner.consts, operands)
            elif any(x is None for x in operands) or not all(map(is_key_or_index, equation.outvars)):
                assert not keys or name == "random_bits", equation
                continue
            else:
                results = equation.primitive.bind(*operands, **equation.params)
                results = results if equation.primitive.multiple_results else [results]
            values |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    closed = jax.make_jaxpr(program)(*arguments)
    interpret(closed.jaxpr, closed.consts, arguments)
    return found


def test_no_two_draws_of_a_run_share_bits(masks):
    """Every key of two steps, three rounds of corrections each, and of fresh weights is used once."""
    config = PromptConfig(divided=0.5, box_and_points=1.0, corrections=3)

    def prompts_of(step):
        keys = prompt_keys(7, step, len(masks))
        prompts = sample_prompts(keys.sample, jnp.asarray(masks), config, mask_size=16)
        prompts, truth = divide_objects(keys.divide, prompts, jnp.asarray(masks), config)
        for number, each in enumerate(correction_keys(keys.correct, config)):
            prompts = correct_prompts(each, prompts, number, 3, jnp.ones((len(masks), 16, 16)), truth)
        looked_at = jax.vmap(lambda key, mask: uncertain_points(key, mask, 8))(keys.look, truth)
        return prompts.points, looked_at

    found = [key for step in range(2) for key in consumed_keys(prompts_of, jnp.int32(step))]
    # To sample, divide and correct, a row needs at least a key for each click.
    assert len(found) > 2 * len(masks) * (config.max_points + 4)
    twice = {key for key, count in collections.Counter(found).items() if count > 1}
    assert len(twice) == 2  # the seed's key, and the one into which the steps' numbers are folded
    weights = nnx.Rngs(7)
    assert not set(found) & {tuple(np.asarray(jax.random.key_data(weights.params())).tolist()) for _ in range(500)}


def test_corrections_click_on_the_larger_error(masks):
    truth = masks[[0, 1]]
    prompts = sample(truth, **only("box"), corrections=2)
    logits = np.full((2, 16, 16), -5, np.float32)
    logits[0, 5:12, 2:4] = 5  # half of the box is missed
    logits[1] = 5  # everything around the disk is surplus
    keys = jax.random.split(jax.random.key(0), 2)
    corrected = jax.tree.map(
        np.asarray, jax.jit(correct_prompts, static_argnums=(2, 3))(keys, prompts, 0, 2, logits, truth)
    )
    slot = prompts.points.shape[1] - 3  # the first of two
    assert corrected.labels[:, slot].tolist() == [POSITIVE, NEGATIVE]
    for mask, wanted, (x, y) in zip(truth, (1, 0), corrected.points[:, slot].round().astype(int), strict=True):
        assert mask[y, x] == wanted
    np.testing.assert_array_equal(corrected.mask, logits)
    assert corrected.has_mask.all()
    np.testing.assert_array_equal(corrected.points[:, :slot], prompts.points[:, :slot])


def test_bad_mixes():
    with pytest.raises(ValueError, match="must not be negative nor all zero"):
        PromptConfig(box=0.0, points=0.0, mask=0.0)
    with pytest.raises(ValueError, match="min_points must be at least 1, and max_points at least that; got 1, 0"):
        PromptConfig(max_points=0)


def test_a_negative_click_takes_the_part_nearer_to_it(masks):
    """By hand: every pixel of the object goes to the nearer of the two clicks."""
    y, x = np.mgrid[:SIZE, :SIZE]
    unwanted = []
    for seed in range(10):
        before, after, left = divide(masks, seed, **only("box_and_points"), divided=1.0)
        for i, (mask, part) in enumerate(zip(masks, left, strict=True)):
            if i in (2, 4):  # too small, and nowhere covered by half: nothing to click away
                np.testing.assert_array_equal(part, mask)
                np.testing.assert_array_equal(after.labels[i], before.labels[i])
                continue
            (x1, y1), (x0, y0) = after.points[i, 2], after.points[i, 3]
            np.testing.assert_array_equal(after.points[i, 2], before.points[i, 2])
            assert mask[int(y0), int(x0)] == 1
            assert np.hypot(x1 - x0, y1 - y0) >= DIVIDED_APART * SIZE
            nearer = (x - x1) ** 2 + (y - y1) ** 2 < (x - x0) ** 2 + (y - y0) ** 2
            np.testing.assert_array_equal(part, mask * nearer)
            np.testing.assert_array_equal(after.labels[i, :2], before.labels[i, :2])
            assert after.labels[i, 2:].tolist() == [POSITIVE, NEGATIVE, *[ABSENT] * 8, NOT_A_POINT]
            unwanted.append((i, x0, y0))
    assert len(set(unwanted)) > 0.9 * len(unwanted)


def test_only_objects_with_points_are_divided(masks):
    many = np.repeat(masks[:1], 400, axis=0)
    before, after, left = divide(many, box=1.0, points=1.0, mask=1.0, box_and_points=1.0, divided=0.25)
    has_points = (before.labels[:, 2] == POSITIVE).astype(bool)
    divided = (left != many).any(axis=(1, 2))
    assert not divided[~has_points].any()
    assert 0.15 < divided[has_points].mean() < 0.35
    np.testing.assert_array_equal(after.labels[~divided], before.labels[~divided])
    np.testing.assert_array_equal(after.points[~divided], before.points[~divided])
    _, after, left = divide(masks, divided=0.0)
    np.testing.assert_array_equal(left, masks)
    np.testing.assert_array_equal(after.points, sample(masks).points)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"divided": 1.5}, r"divided must be from 0 to 1, got 1\.5"),
        ({"divided": 0.5, "max_points": 1}, "max_points must be at least 2 where objects are divided, got 1"),
    ],
)
def test_impossible_division(fields, message):
    with pytest.raises(ValueError, match=message):
        PromptConfig(**fields)
