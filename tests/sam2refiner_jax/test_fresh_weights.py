"""Fresh weights: of every layer the variance that its kind should have, all drawn apart, and the seed's alone."""

import numpy as np
import pytest
from flax import nnx
from small import SMALL

from sam2refiner_jax import build_model, load_model, save_model
from sam2refiner_jax.checkpoints import weights_of


def flat(module) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(nnx.state(module))}


@pytest.fixture(scope="module")
def model():
    return build_model(SMALL.name, refiner="sam2refiner")


def test_every_layer_has_the_variance_of_its_kind(model):
    """PyTorch's for kernels and embeddings; biases and the trunk's positions zero, scales of norms one."""
    checked = set()
    for path, weight in flat(model).items():
        name = path.rpartition(".")[2]
        zero = name == "bias" or "pos_embed" in name or path.startswith("refiner.localization_augment.attn.out_proj")
        zero = zero or path == "refiner.localization_augment.mlp.layers.1.kernel"
        if zero or name in ("scale", "gamma"):
            constant = 0.0 if zero else 1.0 if name == "scale" else 1e-6
            np.testing.assert_array_equal(weight, np.full_like(weight, constant), err_msg=path)
            continue
        if name == "kernel":
            fan_in = np.prod(weight.shape[:-1])
            if (".up" in path or "output_upscaling" in path) and weight.shape[:2] == (2, 2):  # transposed convolutions
                fan_in = 4 * weight.shape[-1]
            expected = (3 * fan_in) ** -0.5
        elif name == "embedding":
            expected = 1.0
        else:
            expected = (
                1.0 if name == "positional_encoding_gaussian_matrix" else 0.88 * 0.02
            )  # cut off at two deviations
        spread = 5 / np.sqrt(2 * weight.size)  # five standard deviations of a standard deviation
        assert weight.std() == pytest.approx(expected, rel=spread), path
        checked.add(name)
    assert {"kernel", "embedding", "no_mem_embed", "positional_encoding_gaussian_matrix"} <= checked


def test_no_two_weights_are_drawn_alike(model):
    beginnings = {path: w.ravel()[:8] / w.std() for path, w in flat(model).items() if w.size >= 8 and np.ptp(w) > 0}
    unique = np.unique(np.round(list(beginnings.values()), 4), axis=0)
    assert len(unique) == len(beginnings) > 150


def test_a_seed_gives_its_weights_with_and_without_a_refiner(model):
    plain, other = (flat(build_model(SMALL.name, seed=seed)) for seed in (0, 1))
    base = {path: np.asarray(w) for path, w in weights_of(model).items()}
    assert base.keys() == plain.keys() == other.keys()
    for path, weight in plain.items():
        np.testing.assert_array_equal(weight, base[path], err_msg=path)
        assert np.ptp(weight) == 0 or np.abs(weight - other[path]).max() > 0.1 * weight.std(), path


def test_a_refiner_does_not_repeat_the_bases_numbers(model):
    """Its seed is its own."""
    refiner = flat(model.refiner)["prompt_retargeting.block.self_attn.q_proj.kernel"]
    base = [w for w in flat(model.with_refiner(None)).values() if w.shape == refiner.shape]
    assert base
    assert all(np.abs(refiner - w).max() > 0.01 for w in base)


@pytest.mark.slow
def test_models_of_one_configuration_have_weights_of_their_own(model, tmp_path):
    save_model(model, tmp_path / "first")
    save_model(build_model(SMALL.name, seed=1), tmp_path / "second")
    wanted = flat(model)
    first = load_model(tmp_path / "first")
    plain = first.with_refiner(None)
    second = load_model(tmp_path / "second")
    assert not np.array_equal(flat(second)["no_mem_embed"], wanted["no_mem_embed"])
    for path, weight in flat(first).items():
        np.testing.assert_array_equal(weight, wanted[path], err_msg=path)
    plain.no_mem_embed.set_value(2 * plain.no_mem_embed[...])
    np.testing.assert_array_equal(first.no_mem_embed[...], wanted["no_mem_embed"])
