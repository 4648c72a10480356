"""Runs of the tiny model: what they write, how they end, and that being stopped leaves no trace in the weights."""

import copy
import fcntl
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import training
from training import make_pairs, state_after, tiny_config

from sam2refiner_jax import build_model
from sam2refiner_jax.checkpoints import load_refiner, read_refiner
from sam2refiner_jax.train import loop
from sam2refiner_jax.train.loop import Preempted, TrainingError, train
from sam2refiner_jax.train.sharding import global_batch

SCRIPT = Path(training.__file__)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    """The folder of a run that nobody stopped, with evaluation and a trace of one step."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    extra = {"eval_data": [f"folder:{data}"], "eval_images": 8, "eval_every": 4, "panel_every": 6}
    extra |= {"evaluators": ["box", "points"], "profile": 1}
    train(tiny_config(data, **extra), workdir, progress=False)
    return workdir


def weights_in(workdir: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in read_refiner(workdir / "refiner")[2].items()}


def lines_of(workdir: Path) -> list[dict]:
    path = workdir / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_same_end(workdir: Path, undisturbed: Path) -> None:
    want = weights_in(undisturbed)
    for name, value in weights_in(workdir).items():
        np.testing.assert_array_equal(value, want[name], err_msg=name)
    losses = [{line["step"]: line["loss"] for line in lines_of(w) if "loss" in line} for w in (workdir, undisturbed)]
    assert losses[0] == losses[1]


def start(workdir: Path, data: Path, **changes) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(workdir), json.dumps({"kind": "pairs", "folder": str(data), **changes})]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)


def wait_until(process: subprocess.Popen, happened) -> None:
    while process.poll() is None and not happened():
        time.sleep(0.01)


def test_what_a_run_writes(undisturbed):
    lines = lines_of(undisturbed)
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [1, 2, 3, 4, 5, 6]
    assert set(losses[1]) == {
        "step",
        "loss",
        "final",
        "auxiliary",
        "gradient_norm",
        "learning_rate",
        "images_per_second",
    }
    scores = [line for line in lines if "eval/refined_iou" in line]
    assert [line["step"] for line in scores] == [4, 6]
    for prompts in ("", "points/"):
        assert all(0 <= line[f"eval/{prompts}{masks}_iou"] <= 1 for line in scores for masks in ("coarse", "refined"))
    assert scores[0]["eval/coarse_iou"] != scores[0]["eval/points/coarse_iou"]
    assert list((undisturbed / "profile").rglob("*.xplane.pb"))
    assert [p.name for p in (undisturbed / "panels").iterdir()] == ["00000006.png"]
    assert list((undisturbed / "tensorboard").glob("events*"))
    model = build_model(training.TINY)
    fitted = model.with_refiner(load_refiner(undisturbed / "refiner", model.config))
    assert fitted.refiner.config == training.REFINER


def test_a_finished_run_is_left_alone(undisturbed, data, caplog):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.name != "config.json" and p.is_file()}
    with caplog.at_level(logging.INFO):
        assert train(tiny_config(data), undisturbed, progress=False) == undisturbed / "refiner"
    assert "the run is finished" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_run_of_an_earlier_version_goes_on(undisturbed, data, tmp_path):
    """Its file lacks fields that came later: they have their defaults. What no version wrote is refused by name."""
    shutil.copytree(undisturbed, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    written = json.loads(file.read_text())
    earlier = copy.deepcopy(written)
    del earlier["profile"], earlier["loss"]["blends"], earlier["data"]["paste"]
    file.write_text(json.dumps(earlier))
    assert train(tiny_config(data), tmp_path / "run", progress=False) == tmp_path / "run" / "refiner"
    assert json.loads(file.read_text()) == tiny_config(data).to_dict()
    for change, message in (
        ({"model": 3}, "TrainConfig.model must be ModelConfig, got 3"),
        ({"model": {"refiner": "x"}}, "model.refiner must have kind and config, got 'x'"),
        ({"speed": 1}, "TrainConfig has no field speed"),
    ):
        file.write_text(json.dumps(written | change))
        with pytest.raises(ValueError, match=f"is not the configuration of a run: {message}"):
            train(tiny_config(data), tmp_path / "run", progress=False)
        assert json.loads(file.read_text()) == written | change


COMMAND = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import training
from sam2refiner_jax.train.recipes import register_recipe
changes = {"checkpoint_every": 100, "data": {"workers": 1}}
register_recipe("tiny", "a test's", training.tiny_config(Path(sys.argv[2]), **changes))
from sam2refiner_jax.commands.cli import main
main(["train", "tiny", "--workdir", sys.argv[3]])
"""


def test_ctrl_c_sigterm_and_sigkill_leave_no_trace(undisturbed, data, tmp_path, monkeypatch):
    """The command, stopped as at a terminal, where ctrl-C reaches workers too; then as by a scheduler; then killed."""
    workdir = tmp_path / "run"
    command = [sys.executable, "-c", COMMAND, str(SCRIPT.parent), str(data), str(workdir)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, **pipes, start_new_session=True)
    wait_until(process, lambda: len(lines_of(workdir)) >= 1)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    last = lines_of(workdir)[-1]["step"]
    assert f"sam2refiner: stopped at step {last} of 6; the same command goes on from there" in output
    assert "Traceback" not in output

    def terminated_at(batch, mesh):
        os.kill(os.getpid(), signal.SIGTERM)
        return global_batch(batch, mesh)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "global_batch", terminated_at)
        with pytest.raises(Preempted, match=f"stopped at step {last + 1} of 6"):
            train(tiny_config(data, checkpoint_every=100), workdir, progress=False)

    process = start(workdir, data, checkpoint_every=1)  # SIGKILL while it writes a checkpoint, or before
    wait_until(process, lambda: any("tmp" in p.name for p in (workdir / "checkpoints").glob("*")))
    process.kill()
    process.communicate()
    train(tiny_config(data, checkpoint_every=1), workdir, progress=False)
    assert_same_end(workdir, undisturbed)


def test_files_of_no_run_are_not_replaced(data, tmp_path):
    for name in ("log.jsonl", "tensorboard", "panels", "checkpoints", "refiner"):
        (tmp_path / name).write_text("theirs")
        with pytest.raises(ValueError, match=rf"{name} is of no run there and will not be replaced"):
            train(tiny_config(data), tmp_path, progress=False)
        assert (tmp_path / name).read_text() == "theirs"
        (tmp_path / name).unlink()
    (tmp_path / "config.json").write_text('["theirs"]')
    with pytest.raises(ValueError, match=r"config\.json is not the configuration of a run: expected fields by name"):
        train(tiny_config(data), tmp_path, progress=False)
    assert (tmp_path / "config.json").read_text() == '["theirs"]'


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_as_an_undisturbed_one(data, tmp_path):
    length = {"steps": 40, "checkpoint_every": 1}
    train(tiny_config(data, **length), tmp_path / "undisturbed", progress=False)
    rng = random.Random(1)
    for _ in range(10):
        process = start(tmp_path / "run", data, **length)
        at = len(lines_of(tmp_path / "run")) + rng.choice([0, 0, 1, 2])
        wait_until(process, lambda at=at: len(lines_of(tmp_path / "run")) > at)
        time.sleep(rng.random() * 0.5)
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        process.communicate()
        print("killed after step", lines_of(tmp_path / "run")[-1]["step"])
    train(tiny_config(data, **length), tmp_path / "run", progress=False)
    assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


def test_a_damaged_checkpoint_is_passed_over(undisturbed, data, tmp_path, caplog):
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "refiner")
    last = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda p: int(p.name.split("_")[-1]))
    for path in last.rglob("*"):
        if path.is_file() and path.stat().st_size:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        train(tiny_config(data), tmp_path / "run", progress=False)
    assert "checkpoint of step 6 is damaged, trying the one before it" in caplog.text
    assert_same_end(tmp_path / "run", undisturbed)


def test_a_run_is_finished_early(undisturbed, data, tmp_path):
    """The result is what the last checkpoint holds; nothing more is learned."""
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "refiner")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{step}")
    before = lines_of(tmp_path / "run")
    train(tiny_config(data), tmp_path / "run", progress=False, finish=True)
    state, found = state_after(tmp_path / "run", 2), weights_in(tmp_path / "run")
    learned = {name.removeprefix("params/refiner."): x for name, x in state.items() if name.startswith("params/")}
    assert len(learned) > 5
    for name, value in learned.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert lines_of(tmp_path / "run") == before


def test_nothing_to_finish(data, tmp_path):
    with pytest.raises(ValueError, match="finish needs a run that has a checkpoint"):
        train(tiny_config(data), tmp_path, progress=False, finish=True)


def test_a_folder_in_use_is_refused(data, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="is in use by another process"):
        train(tiny_config(data), tmp_path, progress=False)
    os.close(folder)
    assert not list(tmp_path.iterdir())


def test_another_runs_folder_is_refused(undisturbed, data):
    other = tiny_config(data, optimizer={"learning_rate": 0.5}, seed=3, log_every=7)
    with pytest.raises(
        ValueError, match=r"another run: optimizer.learning_rate: was 0.001, is now 0.5; seed: was 0, is"
    ):
        train(other, undisturbed, progress=False)


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(data, tmp_path):
    config = tiny_config(data, optimizer={"learning_rate": 1e30}, checkpoint_every=1)
    with pytest.raises(TrainingError, match="update of step 1 is not finite; no checkpoint was written before"):
        train(config, tmp_path / "run", progress=False)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "refiner").exists()


def test_no_implicit_transfers(data, tmp_path, monkeypatch):
    """The loop runs under a guard against them: a batch left on the host does not pass."""
    monkeypatch.setattr(loop, "global_batch", lambda batch, mesh: dict(batch))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(tiny_config(data), tmp_path / "run", progress=False)


def test_bad_runs(data, tmp_path):
    with pytest.raises(ValueError, match="must name at least one source of images"):
        train(tiny_config(data, data={"sources": []}), tmp_path / "a", progress=False)
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    with pytest.raises(ValueError, match="must hold at least one sample"):
        train(tiny_config(tmp_path / "empty"), tmp_path / "b", progress=False)
    unknown = tiny_config(data, eval_data=[f"folder:{data}"], evaluators=["circle"])
    with pytest.raises(ValueError, match="evaluators must be of box, points, got 'circle'"):
        train(unknown, tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match="accumulate must divide batch_size 8, got 3"):
        tiny_config(data, accumulate=3)
    with pytest.raises(ValueError, match=r"model_parallel must divide the \d+ devices, got 64"):
        train(tiny_config(data, model_parallel=64), tmp_path / "c", progress=False)
