"""Files and directories that appear whole or not at all."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from sam2refiner_jax.atomic import new_directory, new_file


@pytest.fixture
def umask():
    """The umask of the test, 027, which gives files 640 and directories 750."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_umask_decides_whatever_other_threads_do(tmp_path, umask):
    def write(number):
        with new_file(tmp_path / f"{number}.txt") as partial:
            partial.write_text("x")
        with new_directory(tmp_path / f"{number}") as partial:
            (partial / "x").write_text("x")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(200)))
    assert {mode_of(tmp_path / f"{number}.txt") for number in range(200)} == {0o640}
    assert {mode_of(tmp_path / f"{number}") for number in range(200)} == {0o750}
    assert {mode_of(tmp_path / f"{number}" / "x") for number in range(200)} == {0o640}


@pytest.mark.parametrize("new", [new_file, new_directory])
def test_what_fails_leaves_nothing(tmp_path, new):
    with pytest.raises(KeyError), new(tmp_path / "a.txt"):
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("new", [new_file, new_directory])
def test_what_is_there_stays(tmp_path, new):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.txt exists already"), new(tmp_path / "a.txt"):
        pass
    with pytest.raises(FileExistsError, match=r"b\.txt exists already"), new(tmp_path / "b.txt"):
        (tmp_path / "b.txt").write_text("made meanwhile")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "mine", "b.txt": "made meanwhile"}


def test_a_file_is_replaced_where_that_is_asked_for(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with new_file(tmp_path / "a.txt", overwrite=True) as partial:
        assert partial.suffix == ".txt"
        partial.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"
