"""Adapters: they change nothing at first, learn alone, and merged they are the model that was trained."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from training import REFINER, TINY, make_pairs

from sam2refiner_jax import build_model, load_model
from sam2refiner_jax.adapters import Adapters, load_adapters, merge_adapters, save_adapters
from sam2refiner_jax.checkpoints import CheckpointError, describe_weights, load_weights, save_model, weights_of
from sam2refiner_jax.config import get_config
from sam2refiner_jax.convert.commands import export
from sam2refiner_jax.convert.naming import official_key, our_layout, torch_axes
from sam2refiner_jax.provenance import Provenance
from sam2refiner_jax.train.config import DataConfig, LoraConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from sam2refiner_jax.train.loop import train
from sam2refiner_jax.train.parts import make_skeleton, starting_model
from sam2refiner_jax.train.sharding import make_mesh
from sam2refiner_jax.train.skeleton import describe_parts, take_apart


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    save_model(build_model(TINY, seed=4), folder)
    return folder


@pytest.fixture(scope="module")
def config(base, tmp_path_factory) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(checkpoint=str(base), refiner=None, dtype="float32"),
        data=DataConfig(sources=(f"folder:{make_pairs(tmp_path_factory.mktemp('data'), 8)}",), jitter=None),
        loss=LossConfig(final=0.0, auxiliary=0.0, coarse=1.0),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        trainable=(),
        lora=LoraConfig(rank=2, alpha=4.0, parts=("encoder", "decoder"), match="*attn*"),
        batch_size=4,
        epochs=None,
        steps=2,
        log_every=1,
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("run"), progress=False)


def test_new_adapters_change_nothing(config, base):
    model = starting_model(config.model, 0)
    skeleton = make_skeleton(config, model.config, None)
    params, frozen = take_apart(model, skeleton, seed=3)
    assert all(name.endswith((".lora_a", ".lora_b")) for name in params)
    assembled = weights_of(skeleton.assemble(params, frozen))
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(assembled[name], value, err_msg=name)
    again = take_apart(model, skeleton, seed=3)[0]
    other = take_apart(model, skeleton, seed=4)[0]
    name = next(name for name in params if name.endswith("lora_a"))
    np.testing.assert_array_equal(params[name], again[name])
    assert (params[name] != other[name]).any()


def test_only_the_adapters_learn_and_are_the_result(config, base, trained):
    assert trained.name == "adapters"
    found = load_adapters(trained)
    skeleton = make_skeleton(config, load_model(base).config, None)
    attention = {n for n in load_weights(base)[1] if "attn" in n and n.endswith("kernel")}
    names = {name.rpartition(".")[0] for name in found.weights}
    assert names == skeleton.adapted
    assert names <= attention
    assert any(name.startswith("image_encoder.trunk") for name in names)
    assert any(name.startswith("sam_mask_decoder") for name in names)
    assert found.scale == 2.0
    assert any(np.any(found.weights[f"{name}.lora_b"]) for name in names)
    rows = dict(line.split(maxsplit=1) for line in describe_parts(skeleton, make_mesh(1)).splitlines())
    assert int(rows["all"].split()[2].replace(",", "")) == sum(value.size for value in found.weights.values())


def test_merged_weights_are_those_that_were_trained_with(base, trained):
    """Beside matrix + scale a b in float64; all that has no adapters is as it was."""
    adapters, before = load_adapters(trained), load_weights(base)[1]
    merged = weights_of(load_model(base, adapters=trained))
    for name, value in before.items():
        if f"{name}.lora_a" in adapters.weights:
            a, b = (np.asarray(adapters.weights[f"{name}.lora_{side}"], np.float64) for side in "ab")
            np.testing.assert_allclose(merged[name], np.asarray(value, np.float64) + 2.0 * a @ b, rtol=1e-6, atol=1e-7)
            assert (np.asarray(merged[name]) != np.asarray(value)).any()
        else:
            np.testing.assert_array_equal(merged[name], value, err_msg=name)


def test_the_exported_file_is_the_merged_model(base, trained, tmp_path):
    export(base, tmp_path / "merged.pt", adapters=trained)
    expected = weights_of(load_model(base, adapters=trained))
    tensors = torch.load(tmp_path / "merged.pt", weights_only=True)["model"]
    assert len(tensors) == len(expected)
    variables = describe_weights(load_model(base).config)
    for name, value in expected.items():
        found = our_layout(tensors[official_key(name)].numpy(), torch_axes(name, variables[name]))
        np.testing.assert_array_equal(found, value, err_msg=name)


@pytest.mark.slow
def test_adapters_beside_parts_that_learn_give_a_whole_model(config, base, tmp_path):
    both = dataclasses.replace(
        config, trainable=("prompt_encoder",), lora=dataclasses.replace(config.lora, parts=("trunk",)), steps=1
    )
    result = train(both, tmp_path, progress=False)
    assert result.name == "model"
    before, after = weights_of(load_model(base)), weights_of(load_model(result))
    changed = {name for name in before if (np.asarray(before[name]) != np.asarray(after[name])).any()}
    assert {name.split(".")[0] for name in changed} == {"image_encoder", "sam_prompt_encoder"}


@pytest.mark.parametrize(
    ("lora", "trainable", "message"),
    [
        ({"parts": ("head",)}, (), "must be of refiner, decoder, .*, got 'head'"),
        ({"match": "*nothing*"}, (), "no matrix larger than the rank 2 matches"),
        ({"rank": 4096}, (), "no matrix larger than the rank 4096"),
        ({"parts": ("memory",)}, (), "'memory', which photos do not teach"),
        ({}, ("trunk",), "lora.parts names 'encoder', which is trainable as a whole already"),
        ({"rank": 0}, (), "trainable must name at least one"),
    ],
)
def test_what_cannot_be_adapted(config, lora, trainable, message):
    changed = dataclasses.replace(config, trainable=trainable, lora=dataclasses.replace(config.lora, **lora))
    with pytest.raises(ValueError, match=message):
        make_skeleton(changed, get_config(TINY), None)


@pytest.mark.parametrize(("field", "value"), [("rank", -1), ("alpha", 0.0)])
def test_bad_settings(field, value):
    with pytest.raises(ValueError, match=rf"{field} must .* got {value}"):
        LoraConfig(**{field: value})


def test_other_adapters_are_refused(base, trained, tmp_path):
    adapters, weights = load_adapters(trained), load_weights(base)[1]
    name = next(name for name in adapters.weights if name.endswith("lora_a"))
    for changes, message in (
        ({name: np.zeros((3, 2), np.float32)}, r"must fit its shape \(\d+, \d+\), got \(3, 2\)"),
        ({name: np.zeros(3, np.float32)}, "must be two matrices"),
        ({"head.lora_a": np.zeros((3, 2)), "head.lora_b": np.zeros((2, 3))}, "adapters are for head, which this model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            merge_adapters(weights, Adapters(1.0, adapters.model, {**adapters.weights, **changes}))
    with pytest.raises(CheckpointError, match="holds adapters alone, not a model; give it as `adapters`"):
        load_model(trained)
    with pytest.raises(CheckpointError, match="does not describe adapters"):
        load_model(base, adapters=base)
    save_adapters(adapters, tmp_path / "copy")
    document = tmp_path / "copy" / "config.json"
    document.write_text(json.dumps({"format": 1, "adapters": {"scale": 1.0}}))
    with pytest.raises(CheckpointError, match="does not describe adapters"):
        load_adapters(tmp_path / "copy")
    with pytest.raises(FileExistsError):
        save_adapters(adapters, tmp_path / "copy")


def test_parts_of_other_checkpoints(base, tmp_path):
    other = build_model(TINY, seed=9)
    other.provenance = Provenance(untrained=("memory_encoder",))
    save_model(other, tmp_path / "other")
    load = (f"memory={tmp_path / 'other'}", f"*.neck.*={tmp_path / 'other'}")
    model = starting_model(ModelConfig(TINY, refiner=None, load=load), seed=1)
    ours, theirs = weights_of(build_model(TINY, seed=1)), weights_of(other)
    for name, value in weights_of(model).items():
        taken = name.startswith(("memory_", "maskmem_", "mask_downsample", "obj_ptr", "no_obj", "image_encoder.neck."))
        np.testing.assert_array_equal(value, (theirs if taken else ours)[name], err_msg=name)
    assert "memory_attention" not in model.provenance.untrained
    assert "memory_encoder" in model.provenance.untrained
    for spec, message in (
        ("memory", "model.load must be PART=CHECKPOINT, got 'memory'"),
        (f"head={tmp_path / 'other'}", "model.load names 'head', of which this model has no weights"),
        (f"refiner={tmp_path / 'other'}", r"takes refiner\.\S+ of shape .* which has no such weight"),
    ):
        with pytest.raises(ValueError, match=message):
            starting_model(ModelConfig(TINY, refiner=REFINER, load=(spec,)), seed=1)
