"""A weight says itself how PyTorch lays it out, whatever it and its owner are called."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from small import SMALL

from sam2refiner_jax import CheckpointError, build_model, save_refiner
from sam2refiner_jax.convert import export_refiner
from sam2refiner_jax.convert.naming import our_layout, torch_axes
from sam2refiner_jax.nn.initializers import fan_in_uniform
from sam2refiner_jax.nn.layers import UpConv2x2, conv, linear
from sam2refiner_jax.refiners.base import REFINERS, Refiner, register_refiner


@dataclasses.dataclass(frozen=True)
class GrowingConfig:
    """Of a refiner that nothing here but its layers is asked of."""

    plain: bool = False


@pytest.fixture
def growing(monkeypatch):
    """A registered refiner of layers under names of their own; square ones, which a wrong order of axes would fit."""
    monkeypatch.setattr("sam2refiner_jax.refiners.base.REFINERS", dict(REFINERS))

    @register_refiner("growing", GrowingConfig)
    class Growing(Refiner):
        def __init__(self, config, base, *, dtype, rngs):
            super().__init__(config, base, dtype=dtype, rngs=rngs)
            self.grow = UpConv2x2(4, 4, dtype=dtype, rngs=rngs)
            self.up1 = conv(4, 4, 2, dtype=dtype, rngs=rngs)
            self.output_upscaling = linear(4, 4, dtype=dtype, rngs=rngs)
            if config.plain:
                self.other = nnx.Conv(4, 4, (2, 2), kernel_init=fan_in_uniform(), rngs=rngs)


def test_exported_layers_compute_what_ours_do(growing, tmp_path):
    model = build_model(SMALL.name, refiner="growing", seed=1)
    save_refiner(model, tmp_path / "refiner")
    export_refiner(tmp_path / "refiner", tmp_path / "a.pt")
    # Earlier versions wrote the sizes of the models that a refiner is for, and no whole configuration.
    document = json.loads((tmp_path / "refiner" / "config.json").read_text())
    del document["refiner"]["model"]
    (tmp_path / "refiner" / "config.json").write_text(json.dumps(document))
    export_refiner(tmp_path / "refiner", tmp_path / "b.pt")

    x = np.random.default_rng(0).normal(size=(1, 3, 5, 4)).astype(np.float32)
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    for name in ("a.pt", "b.pt"):
        tensors = torch.load(tmp_path / name, weights_only=True)["model"]
        for layer, theirs, axes in [
            ("grow", torch.nn.ConvTranspose2d(4, 4, 2, 2), (0, 2, 3, 1)),
            ("up1", torch.nn.Conv2d(4, 4, 2), (0, 2, 3, 1)),
        ]:
            theirs.load_state_dict({key: tensors[f"{layer}.{key}"] for key in ("weight", "bias")})
            expected = theirs(channels_first).permute(axes).detach().numpy()
            np.testing.assert_allclose(getattr(model.refiner, layer)(jnp.asarray(x)), expected, atol=1e-6)
        expected = torch.nn.functional.linear(
            torch.from_numpy(x), tensors["output_upscaling.weight"], tensors["output_upscaling.bias"]
        )
        np.testing.assert_allclose(model.refiner.output_upscaling(jnp.asarray(x)), expected, atol=1e-6)


def test_a_kernel_that_does_not_say_its_layout_is_refused_by_name(growing, tmp_path):
    save_refiner(build_model(SMALL.name, refiner=GrowingConfig(plain=True)), tmp_path / "refiner")
    with pytest.raises(CheckpointError, match=r"other.kernel must say how PyTorch lays out its 4 axes, .* got None"):
        export_refiner(tmp_path / "refiner", tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    wrong = nnx.Param(jnp.zeros((2, 3)), layout="hwio->oihw")
    with pytest.raises(CheckpointError, match=r"a.b must say how PyTorch lays out its 2 axes, .* got 'hwio->oihw'"):
        torch_axes("a.b", wrong)


def test_layouts_are_kept_by_what_makes_models_anew():
    model = build_model(SMALL.name)
    graph, state = nnx.split(model)
    again = nnx.merge(graph, jax.tree.map(lambda x: x + 1, state))
    kernel = again.sam_mask_decoder.output_upscaling.conv1.kernel
    assert torch_axes("kernel", kernel) == (2, 3, 0, 1)
    tensor = np.arange(24.0, dtype=np.float32).reshape(3, 2, 2, 2)  # in, out, height, width
    np.testing.assert_array_equal(our_layout(tensor, (2, 3, 0, 1)), np.einsum("iohw->hwio", tensor))
