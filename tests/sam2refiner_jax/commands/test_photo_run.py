"""Runs over many photos: read ahead, in batches, written behind, and gone on with."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import small_model

from sam2refiner_jax import save_model
from sam2refiner_jax.commands.outputs import DONE_WITH, save_document, source_of
from sam2refiner_jax.commands.photo_prompts import PhotoPrompts
from sam2refiner_jax.commands.photo_run import AHEAD, run_photos
from sam2refiner_jax.commands.segment import segment
from sam2refiner_jax.image.encoding import encode_photos

WAIT = 20.0  # seconds; nothing waits so long unless it is broken


class Steps:
    """A task that notes what happens, and can be made to wait or fail."""

    def __init__(self, output, *, wait_for=None, fails_at=(), of="steps"):
        self.output, self.wait_for, self.fails_at = output, wait_for, fails_at
        self.settings = {"of": of}
        self.was_read, self.batches = [], []
        self.read_events = {}

    def files(self, job):
        return [self.output / f"{job[0].stem}.json"]

    def read(self, job):
        self.was_read.append(job[0].stem)
        self.read_events.setdefault(job[0].stem, threading.Event()).set()
        if ("read", job[0].stem) in self.fails_at:
            raise OSError("is on the moon")
        return job[0].stem

    def segment(self, photos):
        if self.wait_for:
            assert self.read_events.setdefault(self.wait_for, threading.Event()).wait(WAIT)
        self.batches.append((photos, len(self.was_read)))
        return [ValueError("cannot be meant") if ("ask", name) in self.fails_at else name for name in photos]

    def write(self, job, found, done_with):
        if ("write", found) in self.fails_at:
            raise RuntimeError("a fault")
        save_document({"name": found, DONE_WITH: done_with}, self.files(job)[0], source_of(job[0]))
        return self.files(job)[0]


def jobs(names):
    return [(Path(f"{name}.jpg"), PhotoPrompts(points=((1.0, 2.0, 1),))) for name in names]


def test_photos_are_read_while_others_are_segmented_but_not_all_at_once(tmp_path):
    names = [f"{i:02d}" for i in range(12)]
    task = Steps(tmp_path, wait_for="03")  # of the second batch, which is read while the first is segmented
    run_photos(jobs(names), task, tmp_path, batch=2, resume=False)
    assert [name for batch, _ in task.batches for name in batch] == names
    assert [len(batch) for batch, _ in task.batches] == [2] * 6
    assert task.batches[0][1] <= AHEAD * 2
    assert {path.stem for path in tmp_path.iterdir()} == set(names)


def test_photos_that_fail_are_named_and_the_others_done(tmp_path, capsys):
    task = Steps(tmp_path, fails_at={("read", "b"), ("ask", "d")})
    with pytest.raises(ValueError, match="2 of 5 photos could not be segmented"):
        run_photos(jobs("abcde"), task, tmp_path, batch=2, resume=False)
    assert {path.stem for path in tmp_path.iterdir()} == set("ace")
    errors = capsys.readouterr().err
    assert "b.jpg: is on the moon" in errors
    assert "d.jpg: cannot be meant" in errors


def test_a_fault_of_the_program_is_no_photos_fault(tmp_path):
    names = [f"{i:02d}" for i in range(40)]
    task = Steps(tmp_path, fails_at={("write", "01")})
    with pytest.raises(RuntimeError, match="a fault"):
        run_photos(jobs(names), task, tmp_path, batch=1, resume=False)
    assert len(task.was_read) < len(names)


def test_what_is_done_is_left_out(tmp_path, capsys):
    run_photos(jobs("abc"), Steps(tmp_path), tmp_path, batch=1, resume=False)
    (tmp_path / "b.json").unlink()
    task = Steps(tmp_path)
    run_photos(jobs("abcd"), task, tmp_path, batch=1, resume=True)
    assert task.was_read == ["b", "d"]
    assert "2 of 4 photos are done already" in capsys.readouterr().out
    elsewhere = [(path, PhotoPrompts(points=((1.0, 3.0, 1),))) for path, _ in jobs("ab")]
    for asked, task in ((jobs("ab"), Steps(tmp_path, of="others")), (elsewhere, Steps(tmp_path, of="others"))):
        run_photos(asked, task, tmp_path, batch=1, resume=True)
        assert task.was_read == ["a", "b"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "small"
    save_model(small_model(), directory)
    return str(directory)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(60, 90), (80, 50), (70, 70)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"")
    return folder


def results_of(folder):
    documents = {path.stem: json.loads(path.read_bytes()) for path in folder.glob("*.json")}
    masks = {path.name: np.asarray(Image.open(path)) for path in folder.glob("*_object*.png")}
    return documents, masks


def test_batches_give_what_photos_give_one_by_one(checkpoint, photos, tmp_path):
    found, compiled = [], []
    for batch in (1, 2):
        out = tmp_path / str(batch)
        with pytest.raises(ValueError, match="1 of 4 photos"):
            segment(photos, checkpoint, output=out, points=((30.0, 20.0, 1),), multimask=True, batch=batch)
        found.append(results_of(out))
        compiled.append(encode_photos._cache_size())
    assert compiled[1] - compiled[0] <= 1  # the last batch is filled up
    (documents, masks), (others, other_masks) = found
    assert {*documents} == {*others} == {"0", "1", "2"}
    assert {*masks} == {*other_masks}
    assert len(masks) == 9
    for name, mask in masks.items():
        assert (mask == other_masks[name]).mean() >= 0.999  # of two programs
    for name, document in documents.items():
        scores, other_scores = (
            [entry["predicted_iou"] for entry in each["objects"][0]["masks"]] for each in (document, others[name])
        )
        np.testing.assert_allclose(scores, other_scores, atol=1e-5)


def test_an_interrupted_run_goes_on(checkpoint, photos, tmp_path, capsys):
    (photos / "broken.jpg").unlink()
    out, asked = tmp_path / "out", {"points": ((30.0, 20.0, 1),), "resume": True}
    segment(photos, checkpoint, output=out, **asked)
    documents, masks = results_of(out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "1.json").unlink()  # the masks are there, the document, which is last, is not
    capsys.readouterr()
    segment(photos, checkpoint, output=out, **asked)
    output = capsys.readouterr().out
    assert "2 of 3 photos are done already" in output
    assert "1 photos, " in output
    assert results_of(out)[0] == documents
    changed = {name for name, time in before.items() if (out / name).stat().st_mtime_ns != time}
    assert changed == {"1.json", "1_object0.png", "1_overlay.png"}
    for name, mask in results_of(out)[1].items():
        np.testing.assert_array_equal(mask, masks[name])
    segment(photos, checkpoint, output=out, **{**asked, "points": ((31.0, 20.0, 1),)})
    assert "done already" not in capsys.readouterr().out


@pytest.mark.slow
def test_all_masks_go_on_too(checkpoint, photos, tmp_path, capsys):
    (photos / "broken.jpg").unlink()
    for _ in range(2):
        segment(photos, checkpoint, output=tmp_path / "out", everything=True, resume=True)
    assert "3 of 3 photos are done already" in capsys.readouterr().out
    with pytest.raises(ValueError, match="neither multimask, side_by_side nor batch"):
        segment(photos, checkpoint, output=tmp_path / "out", everything=True, batch=2)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        segment(photos, checkpoint, output=tmp_path / "out", points=((30.0, 20.0, 1),), batch=0)
