"""The procedural source: reproducible, exact, varied, within its limits."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from sam2refiner_jax.train.data.procedural import ProceduralSource

SIZE, COUNT = 96, 200


@pytest.fixture(scope="module")
def source() -> ProceduralSource:
    return ProceduralSource(size=SIZE, seed=3)


@pytest.fixture(scope="module")
def samples(source: ProceduralSource) -> list[dict[str, np.ndarray]]:
    return [source[index] for index in range(COUNT)]


def test_samples_are_what_a_source_gives(source: ProceduralSource, samples: list[dict[str, np.ndarray]]) -> None:
    assert len(source) == 2**31 - 1
    for sample in samples:
        assert sample["image"].shape == (SIZE, SIZE, 3)
        assert sample["mask"].shape == (SIZE, SIZE)
        assert sample["image"].dtype == sample["mask"].dtype == np.uint8


def test_same_samples_in_another_process(source: ProceduralSource, samples: list[dict[str, np.ndarray]]) -> None:
    script = (
        "import hashlib, pickle, sys; source = pickle.load(sys.stdin.buffer);"
        "print(hashlib.sha256(b''.join(source[i][k].tobytes() for i in (7, 3) for k in ('image', 'mask'))).hexdigest())"
    )
    import hashlib

    run = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(source), capture_output=True, check=True, timeout=60
    )
    here = hashlib.sha256(b"".join(samples[i][k].tobytes() for i in (7, 3) for k in ("image", "mask"))).hexdigest()
    assert run.stdout.decode().strip() == here
