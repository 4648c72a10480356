"""`track --resume`: a run that was stopped anywhere gives the files of one that was not."""

import fcntl
import json
import os
import signal
import subprocess
import sys

import av
import numpy as np
import pytest
import tyro
from PIL import Image
from small import refining_model, wavering
from videos import disk, moving_frames, write_jpegs

from sam2refiner_jax import save_model
from sam2refiner_jax.atomic import remove_partial_files
from sam2refiner_jax.commands import track_progress
from sam2refiner_jax.commands.outputs import made_of
from sam2refiner_jax.commands.track import track

HEIGHT, WIDTH, FRAMES = 90, 121, 8
PROMPTS = ("--boxes", 5, 20, 50, 70, 70, 5, 110, 30, "--frame", 3, "--memory", "tree")


class StoppedError(BaseException):
    """What stops a run at a place."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_jpegs(tmp_path_factory.mktemp("clips") / "moving", moving_frames(FRAMES, HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    save_model(wavering(refining_model()), path)
    return path


@pytest.fixture(scope="module")
def whole(clip, checkpoint, tmp_path_factory):
    """The files of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("whole")
    run(clip, checkpoint, output)
    return files_in(output)


def arguments(clip, checkpoint, output, *more, prompts=PROMPTS):
    return [str(a) for a in (clip, "--checkpoint", checkpoint, "--output", output, *prompts, *more)]


def run(clip, checkpoint, output, *more, prompts=PROMPTS):
    tyro.cli(track, args=arguments(clip, checkpoint, output, *more, prompts=prompts))


def files_in(folder):
    """All files and their bytes; of the overlay, which x264 encodes otherwise each time, the number of frames."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    for name in found:
        if name.endswith(".mp4"):
            with av.open(str(folder / name)) as container:
                found[name] = sum(1 for _ in container.decode(video=0))
    return found


@pytest.mark.parametrize("stops", [pytest.param((1, 3), marks=pytest.mark.slow), (5, 4, 8)], ids=str)
def test_stopped_and_gone_on_with(stops, clip, checkpoint, whole, tmp_path, monkeypatch):
    """Before the first save, between two, on the way forwards and backwards, and when all frames are done."""
    for place in stops:
        done = []

        def add(progress, predictor, state, position, scores, add=track_progress.Progress.add, place=place, done=done):
            add(progress, predictor, state, position, scores)
            done.append(position)
            if len(progress.scores) == place:
                raise StoppedError

        with monkeypatch.context() as patch:
            patch.setattr(track_progress.Progress, "add", add)
            if place > max((p for p in stops[: stops.index(place)]), default=0):
                with pytest.raises(StoppedError):
                    run(clip, checkpoint, tmp_path, "--resume", "--save-every", 2)
                assert not (tmp_path / "moving" / "track.json").exists()
                saved = (tmp_path / "moving" / "state.npz").exists()
                assert saved == (place >= 2)
    run(clip, checkpoint, tmp_path, "--resume", "--save-every", 2)
    assert files_in(tmp_path) == whole
    assert not (tmp_path / "moving" / "state.npz").exists()


def test_a_killed_process_leaves_nothing_half_written(clip, checkpoint, whole, tmp_path):
    """SIGKILL while the second state is being written; only the first is there, and the next run clears up."""
    code = (
        "import os, signal, sys, tyro; from sam2refiner_jax.commands.track import track; sync = os.fsync; calls = []\n"
        "def fsync(file):\n"
        "    calls.append(file)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 2 else sync(file)\n"
        "os.fsync = fsync; tyro.cli(track, args=sys.argv[1:])"
    )
    given = arguments(clip, checkpoint, tmp_path, "--resume", "--save-every", 3)
    child = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, env=os.environ, timeout=300)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-1000:]
    folder = tmp_path / "moving"
    partial = [p.name for p in folder.iterdir() if p.name.startswith(".")]
    assert [name.startswith(".state-") for name in partial] == [True]
    (folder / ".state-of-mine.npz").write_text("the user's")
    assert made_of(folder / "state.npz") == f"{clip.parent.name}/moving"
    notes = track_progress.read_notes(folder / "state.npz")
    assert (len(notes["scores"]), notes["frame"]) == (3, 5)
    run(clip, checkpoint, tmp_path, "--resume")
    found = files_in(tmp_path)
    assert found.pop("moving/.state-of-mine.npz") == b"the user's"
    assert found == whole


def test_what_is_done_and_other_settings(clip, checkpoint, whole, tmp_path, capsys):
    run(clip, checkpoint, tmp_path, "--save-every", 5)
    assert files_in(tmp_path) == whole
    document = json.loads((tmp_path / "moving" / "track.json").read_text())
    assert document["made_with"]["memory"] == "tree"
    assert document["frames"] == FRAMES
    capsys.readouterr()
    run(clip, checkpoint, tmp_path, "--resume")
    assert "done already" in capsys.readouterr().out
    for more, message in (
        (("--fill-hole-area", 3), "fill_hole_area was 0 and is 3"),
        (("--image-size", 128), "image_size was None and is 128"),
    ):
        with pytest.raises(ValueError, match=f"holds results of other settings: {message}"):
            run(clip, checkpoint, tmp_path, "--resume", *more)
    mask = tmp_path.with_name("mask.png")
    Image.fromarray(disk(0, HEIGHT, WIDTH)).save(mask)
    with pytest.raises(ValueError, match=r"boxes was \[\[5.0, .* and is \[\]; mask was None and is '.*'; frame was 3"):
        run(clip, checkpoint, tmp_path, "--resume", prompts=("--mask", mask, "--memory", "tree"))
    assert files_in(tmp_path) == whole
    # The content of a file of prompts is a setting too.
    run(clip, checkpoint, tmp_path, "--no-overlay", prompts=("--mask", mask))
    Image.fromarray(disk(1, HEIGHT, WIDTH)).save(mask)
    with pytest.raises(ValueError, match=r"other settings: contents\..*mask\.png was '\w{8}' and is '\w{8}'"):
        run(clip, checkpoint, tmp_path, "--no-overlay", "--resume", prompts=("--mask", mask))


def test_another_process_is_not_disturbed(clip, checkpoint, tmp_path):
    (tmp_path / "moving").mkdir()
    folder = os.open(tmp_path / "moving", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        with pytest.raises(ValueError, match="moving is in use by another process"):
            run(clip, checkpoint, tmp_path)
    finally:
        os.close(folder)
    assert files_in(tmp_path) == {}


def test_a_state_that_is_not_ours_is_not_replaced(clip, checkpoint, tmp_path):
    (tmp_path / "moving").mkdir()
    np.savez(tmp_path / "moving" / "state.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match=r"state\.npz is no result of this program and will not be replaced"):
        run(clip, checkpoint, tmp_path, "--resume")


def test_a_mask_that_is_gone_is_named(clip, checkpoint, tmp_path, monkeypatch):
    def add(progress, predictor, state, position, scores, add=track_progress.Progress.add):
        add(progress, predictor, state, position, scores)
        if len(progress.scores) == 3:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(track_progress.Progress, "add", add)
        with pytest.raises(StoppedError):
            run(clip, checkpoint, tmp_path, "--resume", "--save-every", 2)
    (tmp_path / "moving" / "00004.png").unlink()
    with pytest.raises(ValueError, match=r"00004\.png was written and is gone; track anew without --resume"):
        run(clip, checkpoint, tmp_path, "--resume")
    run(clip, checkpoint, tmp_path, "--no-overlay")
    assert not (tmp_path / "moving" / "state.npz").exists()
    assert len(list((tmp_path / "moving").glob("*.png"))) == FRAMES


def test_only_what_new_file_left_is_removed(tmp_path):
    names = [".a-0123456789abcdef.png", ".a-b-0123456789abcdef.png", ".a-0123.png", "a.png", ".c-0123456789abcdef.png"]
    for name in names:
        (tmp_path / name).write_text("x")
    remove_partial_files([tmp_path / "a.png", tmp_path / "a-b.png", tmp_path / "none" / "d.png"])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[2:])


@pytest.mark.slow
def test_boxes_of_a_detector_go_on_too(clip, checkpoint, tmp_path, monkeypatch):
    """Instances begin one after the other, frames before the first are empty, and a run stops in every leg."""
    boxes = [[None] * 2 + [[5, 20, 45, 50]] + [None] * 5, [None] * 4 + [[70, 5, 40, 25], [70, 5, 40, 25], None, None]]
    document = {
        "videos": [{"id": 1, "file_names": [f"moving/{i:05d}.jpg" for i in range(FRAMES)]}],
        "annotations": [{"id": 7 + i, "video_id": 1, "category_id": 1, "bboxes": b} for i, b in enumerate(boxes)],
        "categories": [{"id": 1, "name": "disk"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    prompts = ("--detections", tmp_path / "boxes.json")
    run(clip, checkpoint, tmp_path / "whole", "--no-overlay", prompts=prompts)
    masks = {p.stem: np.asarray(Image.open(p)) for p in sorted((tmp_path / "whole" / "moving").glob("*.png"))}
    assert list(masks) == [f"{i:05d}" for i in range(FRAMES)]
    assert [np.unique(masks[name]).tolist() for name in ("00000", "00001", "00002")] == [[0], [0], [0, 7]]
    assert 8 in masks["00004"]
    rows = [line.split(",")[1:3] for line in (tmp_path / "whole/moving/scores.csv").read_text().splitlines()[1:]]
    expected = [[f"{i:05d}", n] for i in range(2, FRAMES) for n in "78" if n == "7" or i >= 4]
    assert rows == expected
    found = json.loads((tmp_path / "whole" / "moving" / "track.json").read_text())["detections"]
    assert found[1] == {
        "frame": 4, "number": 8, "box": [70, 5, 110, 30], "instance": 8, "category": "disk", "score": 1.0
    }  # fmt: skip

    def add(progress, predictor, state, position, scores, add=track_progress.Progress.add):
        add(progress, predictor, state, position, scores)
        if position.frame in (1, 3, 4) and position not in passed:
            passed.append(position)
            raise StoppedError

    passed = []
    with monkeypatch.context() as patch:
        patch.setattr(track_progress.Progress, "add", add)
        for _ in range(3):
            with pytest.raises(StoppedError):
                run(
                    clip, checkpoint, tmp_path / "parts", "--no-overlay", "--resume", "--save-every", 1, prompts=prompts
                )
    assert [p.frame for p in passed] == [1, 3, 4]
    run(clip, checkpoint, tmp_path / "parts", "--no-overlay", "--resume", prompts=prompts)
    assert files_in(tmp_path / "parts") == files_in(tmp_path / "whole")


@pytest.mark.slow
def test_a_folder_of_masks(clip, checkpoint, tmp_path):
    """Masks on several frames: each is a prompt there, and tracking goes both ways from the earliest."""
    (tmp_path / "masks").mkdir()
    for i in (2, 5):
        Image.fromarray(disk(i, HEIGHT, WIDTH).astype(np.uint8) * 4).save(tmp_path / "masks" / f"{i:05d}.png")
    prompts = ("--mask", tmp_path / "masks", "--no-overlay")
    run(clip, checkpoint, tmp_path / "out", prompts=prompts)
    masks = {p.stem: np.asarray(Image.open(p)) for p in (tmp_path / "out" / "moving").glob("*.png")}
    assert len(masks) == FRAMES
    for i in (2, 5):
        assert ((masks[f"{i:05d}"] == 4) == disk(i, HEIGHT, WIDTH)).mean() > 0.97
    Image.fromarray(disk(1, HEIGHT, WIDTH).astype(np.uint8)).save(tmp_path / "masks" / "00099.png")
    with pytest.raises(ValueError, match=r"names of frames, 00000 to 00007; got .*00099\.png"):
        run(clip, checkpoint, tmp_path / "other", prompts=prompts)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none must hold masks as <name of a frame>\.png, got none"):
        run(clip, checkpoint, tmp_path / "other", prompts=("--mask", tmp_path / "none"))
    assert not (tmp_path / "other").exists()


def test_clicks_correct_a_mask(clip, checkpoint, tmp_path):
    Image.fromarray(disk(0, HEIGHT, WIDTH).astype(np.uint8) * 255).save(tmp_path / "first.png")
    prompts = ("--mask", tmp_path / "first.png", "--no-overlay")
    run(clip, checkpoint, tmp_path / "mask", prompts=prompts)
    run(clip, checkpoint, tmp_path / "both", prompts=(*prompts, "--points", 90, 20, 1, 30, 45, 0))
    one, other = (np.asarray(Image.open(tmp_path / name / "moving" / "00000.png")) for name in ("mask", "both"))
    assert {*np.unique(one), *np.unique(other)} == {0, 255}
    assert (one != other).mean() > 0.01
    several = np.where(disk(0, HEIGHT, WIDTH), np.uint8(1), np.uint8(2))
    Image.fromarray(several).save(tmp_path / "several.png")
    with pytest.raises(ValueError, match=r"points correct a mask of one object, but .*several\.png shows 2: \[1, 2\]"):
        run(clip, checkpoint, tmp_path / "none", prompts=("--mask", tmp_path / "several.png", "--points", 1, 1, 1))
