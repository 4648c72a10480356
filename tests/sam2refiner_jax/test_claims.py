"""One process at a time in a folder: beside a process that locks it with nothing of ours."""

import errno
import subprocess
import sys

import pytest

from sam2refiner_jax import claims
from sam2refiner_jax.claims import FolderClaim, claimed
from sam2refiner_jax.eval.run_folder import RunFolder

LOCKING = """
import fcntl, os, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
try:
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("taken", flush=True)
else:
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other():
    """Starts a process that locks a folder, and says whether it could."""
    children = []

    def start(folder) -> tuple[subprocess.Popen, str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        children.append(subprocess.Popen([sys.executable, "-c", LOCKING, str(folder)], **pipes))
        return children[-1], children[-1].stdout.readline().strip()

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_another_process_is_waited_for_until_it_ends(other, tmp_path):
    child, said = other(tmp_path)
    assert said == "locked"
    for claim in (FolderClaim, lambda folder: RunFolder(folder, {})):
        with pytest.raises(ValueError, match=f"{tmp_path} is in use by another process"):
            claim(tmp_path)
    child.kill()
    child.wait()
    FolderClaim(tmp_path).release()


def test_a_claim_keeps_others_out_and_is_shared_here(other, tmp_path):
    with claimed(tmp_path):
        second = FolderClaim(tmp_path / ".." / tmp_path.name)
        assert other(tmp_path)[1] == "taken"
    assert other(tmp_path)[1] == "taken"
    second.release()
    second.release()
    assert other(tmp_path)[1] == "locked"


def test_a_run_folder_is_let_go_with_the_run(other, tmp_path):
    run = RunFolder(tmp_path / "run", {"seed": 1})
    assert other(run.folder)[1] == "taken"
    folder = run.folder
    del run
    assert other(folder)[1] == "locked"
    assert sorted(path.name for path in folder.iterdir()) == ["settings.json"]


def test_where_there_are_no_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    def refused(descriptor, operation):
        raise OSError(errno.EBADF, "no locks here")

    monkeypatch.setattr(claims.fcntl, "flock", refused)
    FolderClaim(tmp_path).release()
    monkeypatch.setattr(claims, "fcntl", None)
    FolderClaim(tmp_path).release()
