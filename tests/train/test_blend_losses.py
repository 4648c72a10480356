"""SAM-REF's losses against PyTorch, SciPy and loops; and that every weight of it learns from them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import torch
from flax import nnx
from sam_ref import cut
from small import refining_model
from torch.nn import functional as F  # noqa: N812
from training import make_pairs, tiny_config

from sam2refiner_jax import save_model
from sam2refiner_jax.checkpoints import read_refiner
from sam2refiner_jax.refiners import SAMRefConfig
from sam2refiner_jax.refiners.base import Blend
from sam2refiner_jax.train.blend_losses import blend_losses, boundary_band, normalised_focal_loss
from sam2refiner_jax.train.config import LossConfig, ModelConfig
from sam2refiner_jax.train.loop import train
from sam2refiner_jax.train.parts import starting_model

RNG = np.random.default_rng(0)
Y, X = np.mgrid[:32, :32]
TRUTH = np.stack([np.hypot(X - 12, Y - 15) < 9, (X > 5) & (Y < 20)]).astype(np.float32)


def torch_focal(logits, truth, weights=1.0):
    """As RITM and FocalClick compute it: alpha 0.5, gamma 2, the scale detached."""
    p = torch.sigmoid(logits)
    right = torch.where(truth > 0.5, p, 1 - p)
    focus = (1 - right) ** 2
    scale = (focus[0].numel() / focus.sum(dim=(1, 2), keepdim=True)).detach()
    return (-0.5 * scale * focus * torch.log(right) * weights).mean(dim=(1, 2))


def torch_band(truth):
    small = F.interpolate(truth[:, None], size=(4, 4), mode="bilinear")
    large = F.interpolate(small, size=truth.shape[1:], mode="bilinear")[:, 0] > 0.5
    differs = (large ^ (truth > 0.5)).numpy()
    return np.stack([scipy.ndimage.binary_dilation(d, np.ones((3, 3)), iterations=2) for d in differs])


def test_the_focal_loss_and_its_gradient_equal_pytorch():
    logits = RNG.normal(0, 2, TRUTH.shape).astype(np.float32)
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch_focal(theirs, torch.tensor(TRUTH))
    expected.sum().backward()
    loss, gradient = jax.value_and_grad(lambda x: normalised_focal_loss(x, jnp.asarray(TRUTH)).sum())(
        jnp.asarray(logits)
    )
    np.testing.assert_allclose(loss, expected.sum().item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad, rtol=1e-4, atol=1e-8)


def test_the_band_lies_along_the_boundary():
    band = np.asarray(boundary_band(jnp.asarray(TRUTH > 0.5)))
    np.testing.assert_array_equal(band, torch_band(torch.tensor(TRUTH)))
    assert 0 < band.mean() < 0.6


@pytest.mark.parametrize("target", ["mistakes", "boundary"])
def test_a_blends_loss_is_the_sum_of_its_parts(target):
    """Of the whole, and of a window with the truth cut to it."""
    window = np.array([[0.1, 0.2, 0.7, 0.9], [0.0, 0.25, 0.5, 1.0]], np.float32)
    cut_truth = np.stack([cut(t[None], w.astype(np.float64), 32)[0] for t, w in zip(TRUTH, window, strict=True)])
    assert ((cut_truth > 0.01) & (cut_truth < 0.99)).any()
    for truth, windows in ((TRUTH, None), (cut_truth.astype(np.float32), jnp.asarray(window))):
        maps = RNG.normal(0, 2, (4, *TRUTH.shape)).astype(np.float32)
        coarse, errors, detail, blended = (torch.tensor(m) for m in maps)
        wanted = torch.tensor(truth)
        band = torch.tensor(torch_band((wanted > 0.5).float()))
        wrong = band if target == "boundary" else (coarse > 0) ^ (wanted > 0.5)

        def soft_focal(logits, weights, wanted=wanted):
            right = 1 - (wanted - torch.sigmoid(logits)).abs()
            focus = (1 - right) ** 2
            each = -0.5 * focus / focus.mean(dim=(1, 2), keepdim=True) * torch.log(right)
            return (each * weights).mean(dim=(1, 2))

        p = torch.sigmoid(detail)
        dice = 1 - (2 * (p * wanted).sum((1, 2)) + 1) / (p.sum((1, 2)) + wanted.sum((1, 2)) + 1)
        entropy = F.binary_cross_entropy_with_logits(errors, wrong.float(), reduction="none").mean((1, 2))
        focal = soft_focal(detail, 1.0) + soft_focal(blended, 0.5 + 0.5 * band.float())
        expected = (focal + dice + entropy).mean()
        got = blend_losses((Blend(*map(jnp.asarray, maps), windows),), jnp.asarray(TRUTH), target)
        np.testing.assert_allclose(got, expected, rtol=2e-4)


@pytest.mark.slow
def test_every_weight_learns_over_rounds_of_clicks(tmp_path):
    """A run of three steps with a correction each, to which the refiner carries what it made of the first click."""
    pairs = make_pairs(tmp_path / "pairs", 8)
    prompts = {"box": 0.0, "points": 1.0, "mask": 0.0, "max_points": 1, "corrections": 1}
    loss = {"final": 0.0, "auxiliary": 0.0, "blends": 1.0}
    refiner = SAMRefConfig(width=8, blocks=1)
    config = tiny_config(pairs, refiner, prompts=prompts, loss=loss, steps=3, checkpoint_every=3)
    train(config, tmp_path / "run", progress=False)
    state = nnx.to_flat_state(nnx.state(starting_model(config.model, config.seed).refiner))
    start = {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in state}
    learned = {name: np.asarray(value) for name, value in read_refiner(tmp_path / "run" / "refiner")[2].items()}
    assert set(learned) == set(start)
    assert [name for name in start if np.array_equal(learned[name], start[name])] == []


def test_a_checkpoints_refiner_of_another_kind_is_not_trained_on(tmp_path):
    save_model(refining_model(), tmp_path / "model")
    for refiner, kind, kept in ((SAMRefConfig(width=8, blocks=1), "sam_ref", False), (None, "sam2refiner", True)):
        model = starting_model(ModelConfig(checkpoint=str(tmp_path / "model"), refiner=refiner), seed=0)
        assert model.refiner.kind == kind
        assert (model.refiner.config == refining_model().refiner.config) is kept


def test_a_checkpoints_refiner_is_trained_on_as_it_is_or_another_begins(tmp_path):
    save_model(refining_model(), tmp_path / "model")
    there = refining_model().refiner.config
    other = dataclasses.replace(there, mask_refinement=False)

    def start(refiner, **options):
        config = ModelConfig(checkpoint=str(tmp_path / "model"), refiner=refiner, **options)
        return starting_model(config, seed=3).refiner

    def weights(refiner):
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(nnx.state(refiner, nnx.Param))])

    with pytest.raises(ValueError, match=r"as in .*model, whose refiner .* mask_refinement: was True, is now False"):
        start(other)
    assert start(other, fresh_refiner=True).config == other
    kept, fresh = start(there), start(there, fresh_refiner=True)
    np.testing.assert_array_equal(weights(kept), weights(start(None)))
    assert not np.array_equal(weights(kept), weights(fresh))
    with pytest.raises(ValueError, match="fresh_refiner must be False where refiner is None"):
        ModelConfig(refiner=None, fresh_refiner=True)


def test_bad_losses(tmp_path):
    with pytest.raises(ValueError, match="blends must be 0 for a refiner that blends nothing"):
        train(tiny_config(make_pairs(tmp_path / "pairs", 8), loss={"blends": 1.0}), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="error_target must be 'mistakes' or 'boundary', got 'edges'"):
        LossConfig(error_target="edges")
