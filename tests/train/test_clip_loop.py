"""A run from clips and photos: stopped, it goes on with the same bits; the checkpoint says what was trained."""

import dataclasses
import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training import TINY, clip_config, make_clips, make_pairs

from sam2refiner_jax import SAM2VideoPredictor, build_model, load_model
from sam2refiner_jax.checkpoints import CheckpointError, read_provenance, save_model, weights_of
from sam2refiner_jax.provenance import Provenance
from sam2refiner_jax.train import loop
from sam2refiner_jax.train.config import TrainConfig
from sam2refiner_jax.train.loop import Preempted, TrainingError, train
from sam2refiner_jax.train.parts import make_skeleton
from sam2refiner_jax.train.sharding import make_mesh


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    return clip_config(make_clips(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("run"), progress=False)


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(config, tmp_path, monkeypatch):
    """After a step of two clips and one of four photos."""
    sources = (*config.data.sources, f"folder:{make_pairs(tmp_path / 'pairs', 6)}")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources, photos_per_clip=2))
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    train(config, undisturbed, progress=False)
    snapshots = loop.Snapshots

    class Stopping(snapshots):
        def save(self, step, *rest):
            super().save(step, *rest)
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Snapshots", Stopping)
        with pytest.raises(Preempted):
            train(config, workdir, progress=False)
    assert train(config, workdir, progress=False) == workdir / "model"
    expected = weights_of(load_model(undisturbed / "model"))
    for name, value in weights_of(load_model(workdir / "model")).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    steps = [[json.loads(line) for line in (run / "log.jsonl").open()] for run in (workdir, undisturbed)]
    losses = [{line["step"]: line["loss"] for line in lines} for lines in steps]
    assert losses[0] == losses[1]
    assert [*losses[0]] == [1, 2, 3, 4]


def test_the_checkpoint_says_what_was_trained(finished, tmp_path):
    provenance = read_provenance(finished)
    (run,) = provenance.runs
    assert dataclasses.asdict(run) == {
        "parts": ("memory", "object_score"),
        "steps": 4,
        "batch_size": 2,
        "image_size": 64,
        "frames": 2,
    }
    assert provenance.untrained == ("decoder", "prompt_encoder", "trunk", "neck")
    model = load_model(finished)
    assert model.provenance == model.with_refiner(None).provenance == provenance
    SAM2VideoPredictor(model)
    save_model(model, tmp_path / "copy")
    assert read_provenance(tmp_path / "copy") == provenance
    again = provenance.after(dataclasses.replace(run, parts=("encoder",)), {"trunk", "neck"})
    assert [each.parts for each in again.runs] == [("memory", "object_score"), ("encoder",)]
    assert again.untrained == ("decoder", "prompt_encoder")


def test_an_untrained_memory_tracks_only_when_told_to():
    model = build_model(TINY)
    SAM2VideoPredictor(model)
    model.provenance = Provenance(untrained=("memory_attention", "trunk"))
    with pytest.raises(ValueError, match="trained memory, but its memory_attention are random"):
        SAM2VideoPredictor(model)
    assert SAM2VideoPredictor(model, untrained=True).model is model


def test_a_damaged_record(tmp_path):
    save_model(build_model(TINY), tmp_path / "model")
    assert read_provenance(tmp_path / "model") == Provenance()
    path = tmp_path / "model" / "config.json"
    whole = json.loads(path.read_text())
    for training in ({"untrained": 3}, {"runs": [{"parts": ["memory"]}]}, {"weights": []}, [1]):
        path.write_text(json.dumps({**whole, "training": training}))
        with pytest.raises(CheckpointError, match=r"config\.json does not say what was trained"):
            load_model(tmp_path / "model")


def test_parts_that_nothing_teaches_stop_the_run(config):
    model = build_model(TINY)
    skeleton = make_skeleton(config, model.config, None)
    state, _ = loop.place(model, skeleton, config, 4, make_mesh(1))
    taught = functools.partial(loop._parts_taught, skeleton)
    nothing = r"trainable names memory_attention, memory_encoder, object_score, of which no weight"
    with pytest.raises(TrainingError, match=nothing):
        loop._check_taught(state, taught)

    def seen(path, value):
        return jnp.ones_like(value) if "memory" in str(path) else value

    with pytest.raises(TrainingError, match=r"trainable names object_score, of which no weight has had a gradient"):
        loop._check_taught(dataclasses.replace(state, moments=jax.tree.map_with_path(seen, state.moments)), taught)
