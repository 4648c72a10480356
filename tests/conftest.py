"""Photos to test on: real ones from a folder of data beside the repository where there is one, else generated ones."""

import gc
import importlib.metadata
import itertools
import os
import sys
from pathlib import Path

# Compiling takes most of the tests' time. XLA reads these when JAX starts, here and in processes that tests start: no
# optimisation of its code for CPUs, which is made in one piece (each core has a process of tests) and by the quicker of
# its two generators of fused loops, unless the flags of the user say otherwise, and programs kept for the next run.
# `make test` runs the tests marked `optimised` in a process of their own, with the code that users run
# (SAM2REFINER_OPTIMISED).
QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 12):  # later ones have one generator
    QUICK.append("--xla_cpu_use_fusion_emitters=false")
if not os.environ.get("SAM2REFINER_OPTIMISED"):
    os.environ["XLA_FLAGS"] = " ".join([*QUICK, os.environ.get("XLA_FLAGS", "")])
if "PYTEST_XDIST_WORKER" in os.environ:  # PyTorch's threads wait for each other by spinning, and others need the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu is installed for its compiler alone
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "reference"))
from pairs import hqseg44k, pair_folder, write_pair  # noqa: F401

# Tracing makes millions of objects that stay: looking for garbage among them takes a fifth of its time.
gc.set_threshold(200_000, 20, 20)

DATA = Path(os.environ.get("SAM2REFINER_DATA", Path(__file__).parents[2] / "shared" / "data"))


modules = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def heap_of_a_module():
    """Bounds what a process holds, and lets tests that collect garbage look only at what their own module made.

    JAX keeps every program, gigabytes of them in the end; collecting takes seconds among all the objects of a process.
    """
    if next(modules) % 24 == 0:
        jax.clear_caches()
        gc.unfreeze()
        gc.collect()
    gc.freeze()


def generated_photo(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colours, hard-edged disks and noise: all the frequencies that a photo has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    photo = np.asarray(coarse).astype(np.int16)
    y, x = np.mgrid[:height, :width]
    for _ in range(12):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.03, 0.2) * min(height, width)
        photo[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = rng.integers(0, 255, 3)
    photo += rng.normal(0, 8, photo.shape).astype(np.int16)
    return photo.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """An RGB photo of 1200 x 1800 pixels, larger than the model's input."""
    path = DATA / "photos" / "truck.jpg"
    return np.asarray(Image.open(path).convert("RGB")) if path.exists() else generated_photo(1200, 1800, seed=0)


@pytest.fixture(scope="session")
def wide_photo() -> np.ndarray:
    """An RGB frame of 480 x 854 pixels or so, smaller than the model's input."""
    frames = sorted((DATA / "davis2016" / "JPEGImages" / "480p").glob("*/00000.jpg"))
    return np.asarray(Image.open(frames[0]).convert("RGB")) if frames else generated_photo(480, 854, seed=1)


@pytest.fixture(scope="session")
def tall_photo() -> np.ndarray:
    """A tall RGB photo of 481 x 321 pixels or so."""
    tall = (p for p in sorted((DATA / "bsds500" / "images" / "val").glob("*.jpg")) if Image.open(p).size == (321, 481))
    path = next(tall, None)
    return np.asarray(Image.open(path).convert("RGB")) if path else generated_photo(481, 321, seed=2)
