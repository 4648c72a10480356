"""EfficientTAM's official files in and out; four models share their tensors, so a name must say which it is."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from efficienttam import official_shapes

from sam2refiner_jax import PRESETS, CheckpointError, load_model
from sam2refiner_jax.checkpoints import describe_weights, save_weights, weight_shapes
from sam2refiner_jax.commands.cli import main
from sam2refiner_jax.convert import convert_checkpoint, export_checkpoint, read_official, weights_from_official
from sam2refiner_jax.convert.naming import official_key, official_layout, torch_axes

NAMES = [name for name in PRESETS if name.startswith("efficienttam")]


def random_tensors(name: str) -> dict[str, torch.Tensor]:
    """No two alike, and none its own transpose: random numbers, in each tensor from another one on."""
    numbers = np.random.default_rng(0).random(2**20, np.float32) - 0.5
    return {
        key: torch.from_numpy(np.resize(numbers[i : i + math.prod(shape)], shape))
        for i, (key, shape) in enumerate(official_shapes(name).items())
    }


def write(path, name: str, **changes) -> None:
    """A file of the official layout, of zeros that take no room."""
    tensors = {key: torch.zeros(()).expand(shape) for key, shape in official_shapes(name).items()}
    tensors = {key: tensor for key, tensor in (tensors | changes).items() if tensor is not None}
    torch.save({"model": tensors}, path)


def test_there_are_eight():
    assert len(NAMES) == 8
    assert {name: sum(map(math.prod, official_shapes(name).values())) for name in NAMES} == {
        name: 34_056_098 if "_s" in name else 17_866_274 for name in NAMES
    }


@pytest.mark.parametrize("name", ["efficienttam_s", "efficienttam_ti_1"])
def test_official_layouts_come_back_bit_for_bit(name):
    tensors = random_tensors(name)
    config, weights = weights_from_official({key: tensor.numpy() for key, tensor in tensors.items()}, name)
    assert config == PRESETS[name]
    assert {official_key(path) for path in weights} == tensors.keys()
    for path, weight in describe_weights(config).items():
        returned = official_layout(np.asarray(weights[path]), torch_axes(path, weight))
        np.testing.assert_array_equal(returned, tensors[official_key(path)])


def test_an_official_file_comes_back_bit_for_bit(tmp_path):
    tensors = random_tensors("efficienttam_ti_2")
    torch.save({"model": tensors}, tmp_path / "efficienttam_ti_2.pt")
    assert convert_checkpoint(tmp_path / "efficienttam_ti_2.pt", tmp_path / "jax") == PRESETS["efficienttam_ti_2"]
    assert load_model(tmp_path / "jax").config == PRESETS["efficienttam_ti_2"]
    export_checkpoint(tmp_path / "jax", tmp_path / "out.pt")
    returned = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    assert returned.keys() == tensors.keys()
    assert all(torch.equal(returned[key], tensor) for key, tensor in tensors.items())


@pytest.mark.parametrize("name", [name for name in NAMES if "_ti" in name] + ["efficienttam_s_2"])
def test_a_files_name_says_which_model_it_is(name, tmp_path):
    write(tmp_path / f"{name}.pt", name)
    assert load_model(tmp_path / f"{name}.pt").config == PRESETS[name]


def test_of_a_file_of_another_name_the_user_says_it(tmp_path, capsys):
    path = tmp_path / "model.pt"
    write(path, "efficienttam_ti")
    message = "of efficienttam_ti, efficienttam_ti_512x512, efficienttam_ti_1, efficienttam_ti_2 alike"
    with pytest.raises(CheckpointError, match=message):
        load_model(path)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(path, tmp_path / "jax")
    with pytest.raises(ValueError, match=r"preset must be one of .*efficienttam_ti.*, got 'efficienttam'"):
        convert_checkpoint(path, tmp_path / "jax", preset="efficienttam")
    with pytest.raises(CheckpointError, match=r"preset must be efficienttam_ti or .*, got 'efficienttam_s_1'"):
        convert_checkpoint(path, tmp_path / "jax", preset="efficienttam_s_1")
    assert not (tmp_path / "jax").exists()
    main(["convert", str(path), str(tmp_path / "jax"), "--preset", "efficienttam_ti_1"])
    assert capsys.readouterr().out.startswith("efficienttam_ti_1: written to")
    assert load_model(tmp_path / "jax").config == PRESETS["efficienttam_ti_1"]


def test_transformers_has_no_such_model(tmp_path, capsys):
    """With or without a memory, since its trunk is another."""
    for memory in (True, False):
        config = dataclasses.replace(PRESETS["efficienttam_ti_1"], memory=memory)
        weights = {path: np.zeros(shape, np.float32) for path, shape in weight_shapes(config).items()}
        save_weights(tmp_path / f"{memory}", config, weights)
        with pytest.raises(SystemExit):
            main(["export", str(tmp_path / f"{memory}"), str(tmp_path / "out"), "--format", "transformers"])
        assert "got efficienttam_ti_1: ViTConfig, memory_pooling 'logits'" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_mem_embed": None}, r"missing no_mem_embed \(1, 1, 256\)"),
        ({"sam_mask_decoder.conv_s0.bias": torch.zeros(32)}, r"unexpected sam_mask_decoder.conv_s0.bias \(32,\)"),
        (
            {"image_encoder.trunk.pos_embed": torch.zeros(1, 196, 192)},
            r"image_encoder.trunk.pos_embed must have shape \(1, 197, 192\), got \(1, 196, 192\)",
        ),
        (
            {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(192, 3, 7, 7)},
            "no SAM 2 model has a trunk of 12 blocks that starts with 192 channels and patches of side 7; known are",
        ),
    ],
)
def test_other_tensors_are_refused(changes, message, tmp_path):
    write(tmp_path / "efficienttam_ti.pt", "efficienttam_ti", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_official(tmp_path / "efficienttam_ti.pt")
