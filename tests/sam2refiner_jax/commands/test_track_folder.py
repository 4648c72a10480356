"""The command `track` on a folder of videos: what each video gives alone, and what it says about bad ones."""

import csv

import numpy as np
import pytest
import tyro
from PIL import Image
from small import small_model
from videos import disk, moving_frames, write_jpegs, write_video

from sam2refiner_jax import save_model
from sam2refiner_jax.commands.track import track

HEIGHT, WIDTH = 90, 120


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    save_model(small_model(), path)
    return path


@pytest.fixture
def videos(tmp_path):
    """Three videos, one of them a file, beside what is none."""
    folder = tmp_path / "videos"
    write_jpegs(folder / "one", moving_frames(4, HEIGHT, WIDTH, 1))
    write_jpegs(folder / "three", moving_frames(3, HEIGHT, WIDTH, 3))
    write_video(folder / "two.mp4", moving_frames(6, HEIGHT, WIDTH, 2))
    (folder / "notes.txt").write_text("no video")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def masks(tmp_path):
    """Of the first frame of one, of frame 2 of two, and of two frames of three."""
    folder = tmp_path / "masks"
    for name, frame in (("one.png", 0), ("two/00002.png", 2), ("three/00000.png", 0), ("three/00002.png", 2)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        numbered = disk(frame, HEIGHT, WIDTH).astype(np.uint8)
        numbered[5:25, 80:110] = 2
        Image.fromarray(numbered).save(folder / name)
    return folder


def run(*arguments):
    tyro.cli(track, args=[str(a) for a in arguments])


def results(folder):
    """By path below the folder: the pixels of pictures, the rows of tables, the sizes of videos that are there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".png":
            found[name] = np.asarray(Image.open(path))
        elif path.suffix == ".csv":
            with open(path, newline="") as file:
                found[name] = list(csv.DictReader(file))
        elif path.suffix == ".mp4":
            found[name] = path.stat().st_size > 0
    return found


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        if name.endswith(".png"):
            assert (found[name] == value).mean() >= 0.9995, name
        elif name.endswith(".csv"):
            for ours, theirs in zip(found[name], value, strict=True):
                for field in ("video", "frame", "object"):
                    assert ours[field] == theirs[field]
                for field in ("object_score", "predicted_iou"):
                    assert (ours[field] == "") == (theirs[field] == "")
                    assert float(ours[field] or 0) == pytest.approx(float(theirs[field] or 0), abs=1e-4)


def test_a_folder_gives_what_its_videos_give(videos, checkpoint, tmp_path, capsys):
    """From boxes on a later frame, so that all go both ways; twice, as results are no videos and are replaced."""
    arguments = "--checkpoint", checkpoint, "--boxes", 5, 20, 50, 70, 70, 5, 110, 30, "--frame", 1, "--output"
    for video in (videos / "one", videos / "two.mp4", videos / "three"):
        run(video, *arguments, tmp_path / "alone")
    for _ in range(2):
        run(videos, *arguments, tmp_path / "together", "--batch", 2)
        assert "3 videos" in capsys.readouterr().out
    found = results(tmp_path / "together")
    assert len([name for name in found if name.endswith(".png")]) == 4 + 6 + 3
    assert {"one.mp4", "two.mp4", "three.mp4"} < set(found)
    assert_same(found, results(tmp_path / "alone"))


def test_a_mask_for_each(videos, masks, checkpoint, tmp_path):
    run(videos, "--checkpoint", checkpoint, "--mask", masks, "--output", tmp_path / "out", "--batch", 3, "--no-overlay")
    found = results(tmp_path / "out")
    assert [name for name in found if name.endswith(".mp4")] == []
    assert len([name for name in found if name.endswith(".png")]) == 4 + 6 + 3
    for picture, mask in (("one/00000", "one"), ("two/00002", "two/00002"), ("three/00002", "three/00002")):
        assert (found[f"{picture}.png"] == np.asarray(Image.open(masks / f"{mask}.png"))).mean() > 0.97
    run(videos / "one", "--checkpoint", checkpoint, "--mask", masks / "one.png", "--output", tmp_path / "alone")
    alone = results(tmp_path / "alone")
    assert_same({n: v for n, v in found.items() if n.startswith("one/")}, {n: v for n, v in alone.items() if "/" in n})


def test_bad_videos_are_named_and_the_others_done(videos, checkpoint, tmp_path, capsys):
    broken = videos / "one" / "00002.jpg"
    broken.write_bytes(broken.read_bytes()[:700])
    (videos / "four.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"2 of 4 videos could not be tracked to their ends; the others are in .*out"):
        run(videos, "--checkpoint", checkpoint, "--boxes", 5, 20, 50, 70, "--output", tmp_path / "out", "--batch", 2)
    said = capsys.readouterr().err
    assert "sam2refiner: one: frame 2" in said
    assert "sam2refiner: four.mp4: " in said
    found = results(tmp_path / "out")
    pictures = [name.split("/")[0] for name in found if name.endswith(".png")]
    count = {name: pictures.count(name) for name in ("one", "two", "three", "four")}
    assert count == {"one": 2, "two": 6, "three": 3, "four": 0}
    assert "one.mp4" in found
    assert len(found["one/scores.csv"]) == 2
    assert "four/scores.csv" not in found


def test_what_is_wrong_stops_before_anything_is_written(videos, masks, checkpoint, tmp_path):
    def fails(message, *arguments, video=videos, output=tmp_path / "out"):
        with pytest.raises(ValueError, match=message):
            run(video, "--checkpoint", checkpoint, "--output", output, *arguments)

    box = ("--boxes", 5, 20, 50, 70)
    fails("batch must be at least 1, and 1 for a single video, got 2", *box, "--batch", 2, video=videos / "one")
    fails("batch must be at least 1", *box, "--batch", 0)
    fails(r"one/00000\.jpg is no result of this program", *box, output=videos)
    fails(r"mask must be a folder with a mask for each video, got .*one\.png", "--mask", masks / "one.png")
    (masks / "one.png").unlink()
    fails("masks must hold a mask for each video; it has neither one.png nor a folder one", "--mask", masks)
    write_jpegs(videos / "two", moving_frames(2, HEIGHT, WIDTH))
    fails(r"videos/two and videos/two\.mp4 would both have results in .*two/scores\.csv", *box)
    (tmp_path / "out" / "one").mkdir(parents=True)
    (tmp_path / "out" / "one" / "00000.png").write_text("somebody's")
    (videos / "two.mp4").unlink()
    fails(r"one/00000\.png is no result of this program", *box)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["one", "00000.png"]
