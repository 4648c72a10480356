"""One device, eight, and two processes of four train alike, from photos and from clips, killed or not."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import training
from training import config_of, make_clips, make_pairs, state_after

from sam2refiner_jax.train.loop import train

SCRIPT = Path(training.__file__)
STEPS = 8  # a checkpoint of each, and of the first its gradients
LENGTH = {"steps": STEPS, "checkpoint_every": 1, "keep_checkpoints": STEPS}


def start(workdir: Path, run: dict, devices: int, distributed: bool = False, **environment: str) -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(workdir), json.dumps({**run, "distributed": distributed})],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **environment},
    )


def start_two(workdir: Path, run: dict) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start(
            workdir,
            run,
            4,
            distributed=True,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
            JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
        )
        for index in range(2)
    ]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def losses_of(workdir: Path) -> dict[int, float]:
    path = workdir / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["step"]: line["loss"] for line in lines}


def first_gradients(workdir: Path) -> dict[str, np.ndarray]:
    """The gradients of step 1: a tenth of them is Adam's first moment after it."""
    return {name: 10 * value for name, value in state_after(workdir, 1).items() if "/mu/" in name}


@pytest.fixture(scope="module", params=["unet", pytest.param("clips", marks=pytest.mark.slow)])
def run(request, tmp_path_factory) -> dict:
    """What `config_of` takes: photos, or clips of three frames, clicked on errors, for two objects in each."""
    folder = tmp_path_factory.mktemp("data")
    if request.param == "unet":
        return {"kind": "unet", "folder": str(make_pairs(folder)), **LENGTH}
    clicks = {"box": 1.0, "corrections": 1}
    clips = {"data": {"frames": 3, "objects": 2}, "prompts": clicks, "batch_size": 8}
    return {"kind": "clips", "folder": str(make_clips(folder, 9)), **clips, **LENGTH}


@pytest.fixture(scope="module")
def one_device(run, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "one"
    train(config_of(**run), workdir, progress=False)
    return workdir


def assert_alike(workdir: Path, one_device: Path) -> None:
    got, want = losses_of(workdir), losses_of(one_device)
    assert list(got) == list(range(1, STEPS + 1))
    print(f"loss at step 1: {abs(got[1] / want[1] - 1):.1e}, at the last: {abs(got[STEPS] / want[STEPS] - 1):.1e}")
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5)
    np.testing.assert_allclose(got[STEPS], want[STEPS], rtol=1e-3)
    gradients, wanted = first_gradients(workdir), first_gradients(one_device)
    assert set(gradients) == set(wanted)
    assert len(wanted) > 20
    distance = np.sqrt(sum(((gradients[name] - wanted[name]) ** 2).sum() for name in wanted))
    norm = np.sqrt(sum((value**2).sum() for value in wanted.values()))
    print(f"gradients at step 1: {distance / norm:.1e}")
    assert distance <= 1e-4 * norm


def test_two_processes_of_four_devices_stop_together_and_one_device_goes_on(run, one_device, tmp_path):
    """SIGTERM reaches one of the two; both stop after the same step, and another number of devices goes on."""
    workdir = tmp_path / "two"
    processes = start_two(workdir, run)
    while all(p.poll() is None for p in processes) and len(losses_of(workdir)) < 3:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes)
    stops = [line for output in outputs for line in output.splitlines() if line.startswith("preempted")]
    assert len(stops) == 2, "\n".join(outputs)
    assert stops[0] == stops[1]
    assert "devices: 8" in outputs[0]
    assert len(losses_of(workdir)) < STEPS
    train(config_of(**run), workdir, progress=False)
    assert_alike(workdir, one_device)


@pytest.mark.slow
def test_eight_devices_killed_and_started_again(run, one_device, tmp_path):
    """With the same number of devices again there is no difference at all to eight that ran through."""
    through, killed = tmp_path / "through", tmp_path / "killed"
    finish([start(through, run, 8)])
    assert_alike(through, one_device)
    for steps in (1, 4):
        process = start(killed, run, 8)
        while process.poll() is None and len(losses_of(killed)) < steps:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish([start(killed, run, 8)])
    assert losses_of(killed) == losses_of(through)
    first, second = (state_after(workdir, STEPS) for workdir in (killed, through))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
