"""Arrays in a temporary file: exact, in bounded space, whole or not at all, gone with the last who refers to them."""

import copy
import gc
import os
import pickle
import tempfile
import threading

import ml_dtypes
import numpy as np
import pytest
from disks import files_of_at_most

from sam2refiner_jax.video.array_file import ArrayFile


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def arrays(seed=0):
    """Any bits, infinite and NaN of all kinds included."""
    rng = np.random.default_rng(seed)

    def bits(shape, dtype):
        return rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]

    return {
        "mask": bits((16, 16), np.float32),
        "memory": bits((4, 4, 64), ml_dtypes.bfloat16),
        "refined": bits((64, 64), np.float16),
        "every other": bits((9, 8), np.float32).T[::2],
        "one": np.array(rng.random()),
        "none": np.zeros((0, 3), np.int16),
    }


def assert_same_bits(stored, expected):
    for name, array in expected.items():
        found = stored.read(name)
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        assert found.tobytes() == array.tobytes()


def test_what_comes_back_is_what_was_written(folder):
    file = ArrayFile()
    assert list(folder.iterdir()) == []
    stored = [file.write(arrays(seed)) for seed in range(3)]
    for seed, each in enumerate(stored):
        assert_same_bits(each, arrays(seed))
    assert file.size == file.used == 3 * sum(array.nbytes for array in arrays().values())
    assert "mask" in stored[0]
    assert "pointer" not in stored[0]
    with pytest.raises(KeyError, match="pointer"):
        stored[0].read("pointer")
    # Whoever writes to what was read changes no file.
    stored[0].read("mask")[:] = 0
    assert_same_bits(stored[0], arrays(0))


def test_space_is_used_again(folder):
    file = ArrayFile()
    kept = [file.write(arrays(seed)) for seed in range(4)]
    size = file.size
    for seed in range(4, 40):
        kept.pop(seed % 3)
        kept.append(file.write(arrays(seed)))
        assert_same_bits(kept[-1], arrays(seed))
    assert file.size == file.used == size
    small = [file.write({"small": np.arange(seed, seed + 5)}) for seed in range(3)]
    del small[1]
    assert (file.size, file.used) == (size + 3 * 40, size + 2 * 40)
    small.append(file.write({"small": np.arange(9, 14)}))
    assert file.size == size + 3 * 40
    assert [each.read("small")[0] for each in small] == [0, 2, 9]


def test_the_file_has_no_name_and_goes_with_the_last_who_refers_to_it(folder):
    file = ArrayFile()
    stored = file.write(arrays())
    opened = file._file
    assert list(folder.iterdir()) == []
    assert os.fstat(opened.fileno()).st_nlink == 0
    assert os.fstat(opened.fileno()).st_size == file.size
    del file
    gc.collect()
    assert_same_bits(stored, arrays())
    del stored
    gc.collect()
    assert opened.closed


def test_copies_share_the_file_and_pickles_bring_their_own(folder):
    file = ArrayFile()
    stored = file.write(arrays())
    copied = copy.deepcopy({"file": file, "arrays": [stored]})
    assert copied["file"] is file
    size = file.size
    pickled = pickle.dumps([file, stored, file.write(arrays(1))])
    del stored
    gc.collect()
    assert_same_bits(copied["arrays"][0], arrays())
    other, *theirs = pickle.loads(pickled)
    assert other is not file
    assert other.size == 2 * size
    for seed, each in enumerate(theirs):
        assert_same_bits(each, arrays(seed))


def test_a_full_disk_is_an_error_that_loses_nothing(folder):
    """Also where some of the bytes could still be written."""
    file = ArrayFile()
    first = file.write(arrays(0))
    size = file.size
    for room in (0, 1, size // 2, size - 1):
        with files_of_at_most(size + room), pytest.raises(OSError, match=rf"{size} bytes cannot .* in {folder}: File"):
            file.write(arrays(1))
        assert file.size == file.used == size
    forgotten = file.write(arrays(2))
    del forgotten
    with files_of_at_most(size), pytest.raises(OSError, match="TMPDIR"):  # where something was before
        file.write(arrays(3))
    assert (file.size, file.used) == (2 * size, size)
    second = file.write(arrays(4))
    assert file.size == 2 * size
    assert_same_bits(first, arrays(0))
    assert_same_bits(second, arrays(4))


def test_a_folder_that_is_not_there_is_named(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    with pytest.raises(OSError, match=r"temporary file in .*missing: No such file or directory.*TMPDIR"):
        ArrayFile().write(arrays())


def test_threads_do_not_mix_what_they_write(folder):
    file, wrong = ArrayFile(), []

    def work(worker):
        kept = []
        for i in range(60):
            value = np.full(200 + 100 * (i % 2), 1000 * worker + i)
            kept = [*kept[-3:], (file.write({"value": value}), value)]
            wrong.extend(1 for stored, value in kept if not np.array_equal(stored.read("value"), value))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert file.used == 0
    assert file.size < 8 * 60 * 200 * 8 / 4
