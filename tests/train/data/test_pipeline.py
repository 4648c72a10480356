import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from coloured import Colours

from sam2refiner_jax.data.sources import open_source
from sam2refiner_jax.train.config import DataConfig
from sam2refiner_jax.train.data.pipeline import make_batches

SIZE = 32
OPTIONS = {"image_size": SIZE, "batch_size": 4, "seed": 5, "config": DataConfig()}
PLAIN = DataConfig(flip=False, jitter=None)
BROKEN = 1  # of the eight images of the folder, one that the second batch holds


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert {*batch} == {*other} == {"image", "mask"}
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def colours(batches):
    return [int(image[0, 0, 0]) for batch in batches for image in batch["image"]]


@pytest.fixture
def source(pair_folder):
    return open_source(f"folder:{pair_folder}")


class Stripes(Colours):
    """Images with two objects."""

    def several(self, index, count):
        masks = np.zeros((8, 12, 2), np.uint8)
        masks[:4, :, 0], masks[4:, :, 1] = 255, 255
        return {"image": self[index]["image"], "mask": masks[..., :count]}


def test_several_objects():
    """As many masks as asked for: a source's own, repeated where it knows of fewer."""
    options = OPTIONS | {"config": dataclasses.replace(PLAIN, objects=3)}
    batch = next(make_batches([(Stripes(0, 8), 1.0)], **options))
    assert batch["mask"].shape == (4, SIZE, SIZE, 3)
    np.testing.assert_array_equal(batch["mask"][..., 0], batch["mask"][..., 2])
    np.testing.assert_array_equal(batch["mask"][..., 0] >= 128, batch["mask"][..., 1] < 128)
    options = OPTIONS | {"config": dataclasses.replace(PLAIN, objects=2)}
    one = next(make_batches([(Colours(0, 8), 1.0)], **options))
    np.testing.assert_array_equal(one["mask"], np.full((4, SIZE, SIZE, 2), 255))


@pytest.mark.parametrize("config", [PLAIN, DataConfig()])
def test_batches(source, config):
    options = OPTIONS | {"config": config}
    batches = take(make_batches([(source, 1.0)], **options), 5)
    for batch in batches:
        assert batch["image"].shape == (4, SIZE, SIZE, 3)
        assert batch["mask"].shape == (4, SIZE, SIZE)
        assert batch["image"].dtype == batch["mask"].dtype == np.uint8
        assert batch["mask"].max(axis=(1, 2)).min() >= 128
    assert_equal(batches, take(make_batches([(source, 1.0)], **options), 5))
    other = take(make_batches([(source, 1.0)], **options | {"seed": 6}), 5)
    assert any((batch["image"] != another["image"]).any() for batch, another in zip(batches, other, strict=True))


def test_every_pass_shows_each_image_once_in_another_order():
    options = OPTIONS | {"config": PLAIN, "batch_size": 3}
    shown = np.reshape(colours(take(make_batches([(Colours(10, 6), 1.0)], **options), 8)), (4, 6))
    np.testing.assert_array_equal(np.sort(shown), np.tile(np.arange(10, 16), (4, 1)))
    assert len({tuple(order) for order in shown}) > 1


def test_an_image_is_augmented_anew_in_every_pass(source):
    batches = take(make_batches([(source, 1.0)], **OPTIONS), 8)
    images = {image.tobytes() for batch in batches for image in batch["image"]}
    assert len(images) == 32


def test_sources_are_mixed_by_weight():
    sources = [(Colours(0, 5), 1.0), (Colours(100, 3), 3.0)]
    options = OPTIONS | {"config": PLAIN, "batch_size": 8}
    for batch in take(make_batches(sources, **options), 4):
        assert sum(colour >= 100 for colour in colours([batch])) == 6


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_same_global_batches(source, processes):
    sources = [(source, 1.0), (Colours(0, 5), 2.0)]
    whole = take(make_batches(sources, **OPTIONS), 5)
    parts = [
        take(make_batches(sources, **OPTIONS, process_index=index, process_count=processes), 5)
        for index in range(processes)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    assert_equal(joined, whole)


def test_resumed_batches_continue(source):
    batches = make_batches([(source, 1.0)], **OPTIONS)
    first = take(batches, 3)
    state = json.dumps(batches.get_state())
    assert len(state) < 100
    rest = take(batches, 4)
    resumed = make_batches([(source, 1.0)], **OPTIONS)
    resumed.set_state(json.loads(state))
    assert resumed.get_state() == json.loads(state)
    assert_equal(take(resumed, 4), rest)
    batches.set_state({"next_batch": 0})  # backwards, too
    assert_equal(take(batches, 3), first)
    shared = make_batches([(source, 1.0)], **OPTIONS, process_index=1, process_count=2)
    shared.set_state(json.loads(state))  # and by another number of processes
    assert_equal(take(shared, 4), [{name: array[2:] for name, array in batch.items()} for batch in rest])


def test_a_broken_file_is_reported_not_skipped_by_threads_and_workers_alike(source, pair_folder):
    whole = take(make_batches([(source, 1.0)], **OPTIONS), 2)  # one pass
    (pair_folder / "masks" / f"{BROKEN}.png").write_bytes(b"")
    for workers in (0, 2):
        batches = make_batches([(source, 1.0)], **OPTIONS | {"config": DataConfig(workers=workers)})
        try:
            assert_equal([next(batches)], whole[:1])
            with pytest.raises(ValueError, match=rf"masks/{BROKEN}.png is not a readable picture: empty file"):
                next(batches)
            assert batches.get_state() == {"next_batch": 1}
        finally:
            batches.close()


def test_closed_batches_end(source):
    batches = make_batches([(source, 1.0)], **OPTIONS)
    next(batches)
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": []}, "at least one source, got none"),
        ({"sources": [(Colours(0, 0), 1.0)]}, "source 0 holds none"),
        ({"sources": [(Colours(0, 1), 1.0), (Colours(0, 1), 0.0)]}, "weights must be positive, got 0.0 for source 1"),
        ({"batch_size": 6, "process_count": 4}, "must be a multiple of process_count.* got 6, 4 and 0"),
        ({"process_index": 2, "process_count": 2}, "process_index below it; got 4, 2 and 2"),
        ({"batch_size": 0}, "must be positive, got 32 and 0"),
        ({"seed": -1}, "seed must be from 0 to 2"),
    ],
)
def test_wrong_arguments(options, message):
    arguments = {"sources": [(Colours(0, 1), 1.0)], **OPTIONS, **options}
    with pytest.raises(ValueError, match=message):
        make_batches(arguments.pop("sources"), **arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objects": 0}, "objects must be at least 1, got 0"),
        ({"workers": -1}, "workers must not be negative, got -1"),
        ({"paste": 1.5}, "paste must be from 0 to 1, got 1.5"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**fields)


WITH_WORKERS = """
import sys
from multiprocessing import active_children
from sam2refiner_jax.data.sources import open_source
from sam2refiner_jax.train.config import DataConfig
from sam2refiner_jax.train.data.pipeline import make_batches

if __name__ == "__main__":
    sources = [(open_source("folder:" + sys.argv[1]), 1.0)]
    batches = make_batches(sources, DataConfig(workers=2), image_size=32, batch_size=4, seed=5)
    next(batches)
    print(*(child.pid for child in active_children()), flush=True)
    sys.stdin.readline()
    batches.close()
    print("closed", flush=True)
    sys.stdin.readline()
"""


def is_running(process_id: str) -> bool:
    try:
        return Path("/proc", process_id, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("end", ["kill", pytest.param("close", marks=pytest.mark.slow)])
def test_workers_end_with_the_process_that_started_them(end, pair_folder, tmp_path):
    (tmp_path / "script.py").write_text(WITH_WORKERS)
    command = [sys.executable, str(tmp_path / "script.py"), str(pair_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        workers = process.stdout.readline().split()
        assert len(workers) == 2
        assert all(map(is_running, workers))
        if end == "kill":
            process.kill()
        else:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "closed\n"
        deadline = time.monotonic() + 20
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, workers))
        process.kill()
