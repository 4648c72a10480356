import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

from sam2refiner_jax.hardware.chips import chip_mesh, chip_of
from sam2refiner_jax.hardware.compiled_cost import analyse, compile_uncached
from sam2refiner_jax.nn.mask_decoder import DecoderOutput
from sam2refiner_jax.refiners.base import Refined
from sam2refiner_jax.train.config import LossConfig
from sam2refiner_jax.train.losses import (
    binary_cross_entropy,
    coarse_losses,
    dice_loss,
    focal_loss,
    mask_iou,
    mask_loss,
    mask_loss_at_points,
    refined_losses,
    uncertain_points,
    values_at,
)

KEYS = jax.random.split(jax.random.key(0), 2)


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def by_definition(logits: np.ndarray, truth: np.ndarray) -> float:
    """BCE + Dice of one mask in PyTorch, in double precision."""
    x, t = torch.from_numpy(logits).double(), torch.from_numpy(truth).double()
    p = x.sigmoid()
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    return float(torch.nn.functional.binary_cross_entropy_with_logits(x, t) + dice)


def arrays(*values):
    return jax.tree.map(jnp.asarray, values)


def random_masks(rng, shape):
    return rng.normal(0, 30, shape).astype(np.float32), rng.random(shape).astype(np.float32)


def test_bce_and_dice_equal_their_definitions(rng):
    logits, truth = random_masks(rng, (5, 12, 12))
    truth[3], truth[4] = 0, 1
    want = [by_definition(x, t) for x, t in zip(logits, truth, strict=True)]
    np.testing.assert_allclose(mask_loss(*arrays(logits, truth)), want, rtol=1e-5)
    np.testing.assert_allclose(
        binary_cross_entropy(*arrays(logits, truth)) + dice_loss(*arrays(logits, truth)), want, rtol=1e-5
    )


@pytest.mark.optimised
def test_gradients_of_sure_masks_are_finite_where_coverage_is_divided_in_the_same_program():
    logits = np.linspace(-60, 60, 512, dtype=np.float32).reshape(2, 16, 16)
    stored = np.tile(np.array([0, 128, 254, 255], np.uint8), 128).reshape(2, 16, 16)
    x = torch.tensor(logits, dtype=torch.double, requires_grad=True)
    t = torch.tensor(stored).double() / 255
    p = x.sigmoid()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none")
    wrong = 1 - (p * t + (1 - p) * (1 - t))
    expected = ((0.25 * t + 0.75 * (1 - t)) * wrong**2 * entropy).mean()
    expected.backward()
    value, gradient = jax.jit(jax.value_and_grad(lambda x, stored: focal_loss(x, stored / 255).mean()))(logits, stored)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-9)


def test_a_tpu_computes_the_focal_loss_and_its_gradient_in_one_pass():
    """It reads logits and truth and writes the gradient. Optax's focal loss moves fifteen times as much."""
    pytest.importorskip("libtpu")
    chip = chip_of("v5e")
    masks = jax.ShapeDtypeStruct((4, 256, 256), jnp.float32, sharding=NamedSharding(chip_mesh(chip), PartitionSpec()))
    step = jax.jit(jax.value_and_grad(lambda x, truth: focal_loss(x, truth).sum()))
    cost = analyse(compile_uncached(step.lower(masks, masks)), chip)
    assert cost.bytes_accessed < 1.5 * 3 * 4 * masks.size


def test_a_finer_truth_is_averaged(rng):
    logits, truth = random_masks(rng, (2, 8, 8))[0], random_masks(rng, (2, 32, 32))[1]
    small = torch.nn.functional.avg_pool2d(torch.from_numpy(truth), 4).numpy()
    want = [by_definition(x, t) for x, t in zip(logits, small, strict=True)]
    np.testing.assert_allclose(mask_loss(*arrays(logits, truth)), want, rtol=1e-5)


def test_refined_loss_is_the_papers(rng):
    masks, truth = random_masks(rng, (2, 16, 16))
    auxiliary = tuple(rng.normal(size=(2, side, side)).astype(np.float32) for side in (4, 8, 16))
    parts = refined_losses(Refined(*arrays(masks, auxiliary)), jnp.asarray(truth), LossConfig(), KEYS)
    pool = torch.nn.functional.avg_pool2d
    final = np.mean([by_definition(x, t) for x, t in zip(masks, truth, strict=True)])
    rest = 0.0
    for logits in auxiliary:
        small = pool(torch.from_numpy(truth), 16 // logits.shape[-1]).numpy()
        rest += np.mean([by_definition(x, t) for x, t in zip(logits, small, strict=True)])
    np.testing.assert_allclose(parts["final"], final, rtol=1e-5)
    np.testing.assert_allclose(parts["auxiliary"], 0.3 * rest, rtol=1e-5)


def test_values_between_pixels_equal_pytorch(rng):
    image, points = rng.normal(size=(9, 7)).astype(np.float32), rng.random((200, 2)).astype(np.float32)
    grid = torch.from_numpy(2 * points - 1)[None, None]
    want = torch.nn.functional.grid_sample(torch.from_numpy(image)[None, None], grid, align_corners=False)[0, 0, 0]
    np.testing.assert_allclose(values_at(*arrays(image, points)), want, rtol=1e-5, atol=1e-6)


def test_points_are_where_a_mask_is_uncertain_and_elsewhere():
    """Of a mask whose logits rise from left to right through zero at a quarter of its width."""
    logits = jnp.broadcast_to(jnp.linspace(-1, 3, 64), (64, 64))
    points = np.asarray(uncertain_points(jax.random.key(1), logits, 400))
    assert points.shape == (400, 2)
    assert ((points >= 0) & (points <= 1)).all()
    # 300 of 1,200 uniform ones, the nearest to the line, lie in a band of a quarter of the width.
    assert abs(points[:300, 0] - 0.25).max() < 0.15
    assert 0.35 < points[300:, 0].mean() < 0.65
    assert points[:300, 1].std() > 0.2


def test_loss_at_points_is_the_loss_of_what_is_there(rng):
    logits, truth = random_masks(rng, (2, 8, 8))[0], random_masks(rng, (2, 32, 32))[1]
    want = []
    for key, x, t in zip(KEYS, logits, truth, strict=True):
        grid = torch.from_numpy(2 * np.array(uncertain_points(key, jnp.asarray(x), 50)) - 1)[None, None]
        both = (
            torch.nn.functional.grid_sample(torch.from_numpy(m)[None, None], grid, align_corners=False) for m in (x, t)
        )
        want.append(by_definition(*(values.numpy() for values in both)))
    np.testing.assert_allclose(mask_loss_at_points(KEYS, *arrays(logits, truth), 50), want, rtol=1e-5)
    parts = refined_losses(Refined(*arrays(logits, (logits,))), jnp.asarray(truth), LossConfig(points=50), KEYS)
    assert 0.3 * parts["final"] != parts["auxiliary"]  # each mask has points of its own


def test_coarse_losses_teach_the_single_mask_and_the_best_of_three(rng):
    logits, truth = random_masks(rng, (2, 4, 8, 8))[0], random_masks(rng, (2, 16, 16))[1]
    iou, score = rng.random((2, 4)).astype(np.float32), rng.normal(size=(2, 1)).astype(np.float32)
    nothing = np.zeros((2, 1, 1), np.float32)
    output = DecoderOutput(*arrays(logits, iou, score, nothing, *2 * [nothing[..., None]]))
    parts = coarse_losses(output, jnp.asarray(truth), LossConfig(coarse=2.0, iou=3.0, object_score=0.5))
    up = torch.nn.functional.interpolate(torch.from_numpy(logits), (16, 16), mode="bilinear").numpy()
    each = np.array([[by_definition(m, t) for m in masks] for masks, t in zip(up, truth, strict=True)])
    np.testing.assert_allclose(parts["coarse"], 2 * np.mean(each[:, 0] + each[:, 1:].min(1)), rtol=1e-5)
    mask, true = up > 0, (truth > 0.5)[:, None]
    actual = (mask & true).sum((2, 3)) / (mask | true).sum((2, 3))
    np.testing.assert_allclose(parts["iou"], 3 * np.mean((iou - actual) ** 2), rtol=1e-5)
    np.testing.assert_allclose(parts["object_score"], 0.5 * np.mean(np.log1p(np.exp(-score))), rtol=1e-5)


def test_iou():
    truth = np.zeros((3, 4, 4), np.float32)
    truth[0, :2] = truth[1, 0, 0] = 1
    logits = np.full((3, 4, 4), -1.0, np.float32)
    logits[0, 1:3] = 1
    np.testing.assert_allclose(mask_iou(*arrays(logits, truth)), [1 / 3, 0, 1])
