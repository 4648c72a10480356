"""What commands may replace: their own earlier results of the same photo or video, and nothing else."""

import json

import numpy as np
import pytest
from PIL import Image
from videos import moving_frames, write_jpegs, write_video

from sam2refiner_jax.commands.outputs import (
    check_outputs,
    clear_results,
    made_of,
    save_document,
    save_picture,
    save_scores,
    source_of,
)
from sam2refiner_jax.commands.segment import segment
from sam2refiner_jax.commands.track import track

SEGMENT = {"checkpoint": "no such model", "points": ((5.0, 5.0, 1),)}  # refused before a model is looked for
TRACK = {"checkpoint": "no such model", "boxes": ((2.0, 2.0, 20.0, 20.0),)}


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 24, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def kept(tmp_path):
    """Checks that a refused command changes no file and makes none."""

    def contents():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def check(command, message):
        before = contents()
        with pytest.raises(ValueError, match=message):
            command()
        assert contents() == before

    return check


def test_results_say_what_they_are_of(tmp_path):
    source = source_of(tmp_path / "photos" / "käse ☕.jpg")
    assert source == "photos/käse ☕.jpg"
    save_picture(Image.new("L", (4, 3)), tmp_path / "a.png", source)
    save_document({"objects": []}, tmp_path / "a.json", source)
    save_scores([["00000", 1, 0.5, ""], ["00001", 1, 0.5, 0.25]], tmp_path / "a.csv", source)
    assert made_of(tmp_path / "a.png") == made_of(tmp_path / "a.json") == made_of(tmp_path / "a.csv") == source
    assert json.loads((tmp_path / "a.json").read_text())["objects"] == []
    for name, content in (("b.png", b""), ("b.json", b"[1"), ("c.json", b"[1]"), ("b.mp4", b"no"), ("b.txt", b"")):
        (tmp_path / name).write_bytes(content)
        assert made_of(tmp_path / name) is None


@pytest.mark.parametrize("source", ["clips/a, b.mp4", 'clips/"quoted"', "clips/two\nlines", " / "])
def test_tables_of_scores_say_what_they_are_of(tmp_path, source):
    save_scores([["00000", 1, 0.5, ""]], tmp_path / "a.csv", source)
    assert made_of(tmp_path / "a.csv") == source


HEAD = "video,frame,object,object_score,predicted_iou\n"


@pytest.mark.parametrize(
    "content",
    [
        "",
        HEAD,
        "video,frame,score\na/clip,0,1\n",
        "frame,video,object,object_score,predicted_iou\na/clip,0,1,1,1\n",
        HEAD + "a/clip,0,1,1,1\nb/clip,0,1,1,1\n",  # put together by somebody
        HEAD + "a/cl\xe4p,0,1,1,1\n",
        HEAD + '"' + "a" * 200_000 + '",0,1,1,1\n',
    ],
    ids=["empty", "head", "other", "order", "two", "encoding", "long"],
)
def test_other_tables_are_not_ours(tmp_path, content, kept):
    frames = write_jpegs(tmp_path / "a" / "clip", moving_frames(2, 64, 64))
    (tmp_path / "out" / "clip").mkdir(parents=True)
    (tmp_path / "out" / "clip" / "scores.csv").write_bytes(content.encode("latin-1"))
    assert made_of(tmp_path / "out" / "clip" / "scores.csv") is None
    kept(lambda: track(frames, output=tmp_path / "out", **TRACK), r"scores\.csv is no result of this program")


def test_scores_of_another_video_are_kept(tmp_path, kept):
    frames = write_jpegs(tmp_path / "a" / "clip", moving_frames(2, 64, 64))
    (tmp_path / "out" / "clip").mkdir(parents=True)
    save_scores([["00000", 1, 0.5, ""]], tmp_path / "out" / "clip" / "scores.csv", "b/clip")
    kept(lambda: track(frames, output=tmp_path / "out", **TRACK), r"scores\.csv holds results of b/clip")


def test_earlier_results_of_the_same_source_are_no_obstacle(tmp_path):
    save_picture(Image.new("L", (4, 3)), tmp_path / "a.png", "photos/a.jpg")
    check_outputs([(tmp_path / "a.png", "photos/a.jpg"), (tmp_path / "new.png", "photos/a.jpg")])
    with pytest.raises(ValueError, match=r"holds results of photos/a\.jpg"):
        check_outputs([(tmp_path / "a.png", "photos/b.jpg")])


def test_clearing_takes_results_of_one_source_alone(tmp_path):
    save_picture(Image.new("L", (4, 3)), tmp_path / "1.png", "a/clip")
    save_picture(Image.new("L", (4, 3)), tmp_path / "2.png", "b/clip")
    picture(tmp_path / "3.png")
    for name, source in (("a", "a/clip"), ("b", "b/clip")):
        save_scores([["00000", 1, 0.5, ""]], tmp_path / f"{name}.csv", source)
    clear_results(tmp_path, "a/clip")
    clear_results(tmp_path, "a/clip", "*.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.png", "3.png", "b.csv"]


def test_a_photos_neighbours_are_kept(tmp_path, kept):
    """A LabelMe annotation, a prompts file, and a photo that is called as an overlay would be."""
    cat = picture(tmp_path / "cat.jpg")
    (tmp_path / "cat.json").write_text('{"version": "5.0.1", "shapes": []}')
    kept(lambda: segment(cat, output=tmp_path, **SEGMENT), r"cat\.json is no result")

    dog = picture(tmp_path / "dog.jpg")
    prompts = tmp_path / "dog.json"
    prompts.write_text('{"dog.jpg": {"points": [[5, 5, 1]]}}')
    kept(
        lambda: segment(dog, output=tmp_path, checkpoint="no such model", prompts=prompts),
        r"dog\.json is read here and must not be replaced",
    )

    picture(tmp_path / "owl_overlay.png")
    owl = picture(tmp_path / "owl.jpg")
    kept(lambda: segment(owl, output=tmp_path, **SEGMENT), r"owl_overlay\.png is no result")


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("a.jpg", "A.png")])
def test_photos_whose_results_would_meet_are_refused(tmp_path, kept, names):
    for name in names:
        picture(tmp_path / "photos" / name)
    first, second = sorted(names)
    kept(
        lambda: segment(tmp_path / "photos", output=tmp_path / "out", **SEGMENT),
        f"photos/{first} and photos/{second} would both have results",
    )


def test_a_video_is_not_replaced_by_its_overlay(tmp_path, kept):
    own = write_video(tmp_path / "own.mp4", moving_frames(2, 64, 64))
    kept(lambda: track(own, output=tmp_path, **TRACK), r"own\.mp4 is read here and must not be replaced")
    (tmp_path / "clips").mkdir()
    other = write_video(tmp_path / "clips" / "own.mp4", moving_frames(2, 64, 64))
    kept(lambda: track(other, output=tmp_path, **TRACK), r"own\.mp4 is no result")


def test_a_folder_of_frames_or_annotations_takes_no_masks(tmp_path, kept):
    frames = write_jpegs(tmp_path / "frames" / "bear", moving_frames(2, 64, 64))
    kept(lambda: track(frames, output=tmp_path / "frames", **TRACK), r"00000\.jpg is no result")
    picture(tmp_path / "annotations" / "bear" / "00000.png")
    kept(lambda: track(frames, output=tmp_path / "annotations", **TRACK), r"00000\.png is no result")
    (tmp_path / "bear").write_text("a file where the masks' folder is to be")
    kept(lambda: track(frames, output=tmp_path, **TRACK), "bear is no result")
