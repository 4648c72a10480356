"""The command `track`: what it writes, and what it says about bad input."""

import csv

import av
import numpy as np
import pytest
import tyro
from PIL import Image
from small import small_model
from videos import disk, moving_frames, write_jpegs, write_video

from sam2refiner_jax import SAM2VideoPredictor, save_model
from sam2refiner_jax.commands.track import track
from sam2refiner_jax.data.masks import davis_palette, read_objects

HEIGHT, WIDTH, FRAMES = 90, 121, 6  # odd, which video encoders cannot have


@pytest.fixture(scope="module")
def frames():
    return moving_frames(FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def clip(frames, tmp_path_factory):
    return write_jpegs(tmp_path_factory.mktemp("clips") / "moving", frames)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    save_model(small_model(), path)
    return path


@pytest.fixture
def two_objects(tmp_path):
    """A palette picture of the first frame: the disk is object 3, a square object 200."""
    numbered = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbered[disk(0, HEIGHT, WIDTH)] = 3
    numbered[5:25, 80:110] = 200
    picture = Image.fromarray(numbered, mode="P")
    picture.putpalette(davis_palette().tobytes())
    picture.save(tmp_path / "first.png")
    return tmp_path / "first.png"


def run(*arguments):
    tyro.cli(track, args=[str(a) for a in arguments])


def masks_in(folder):
    return {p.stem: Image.open(p) for p in sorted(folder.glob("*.png"))}


def frames_of(video):
    with av.open(str(video)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


def scores_in(folder):
    """The rows of the table of scores."""
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_mask_of_the_first_frame(clip, checkpoint, two_objects, tmp_path, capsys):
    run(clip, "--checkpoint", checkpoint, "--output", tmp_path / "out", "--mask", two_objects)
    pictures = masks_in(tmp_path / "out" / "moving")
    assert list(pictures) == [f"{i:05d}" for i in range(FRAMES)]
    for picture in pictures.values():
        assert (picture.mode, picture.size) == ("P", (WIDTH, HEIGHT))
        assert set(np.unique(picture)) <= {0, 3, 200}
        assert picture.getpalette()[9:12] == [128, 128, 0]
    first = np.asarray(pictures["00000"])
    assert (first == np.asarray(Image.open(two_objects))).mean() > 0.97
    shown = frames_of(tmp_path / "out" / "moving.mp4")
    assert len(shown) == FRAMES
    assert shown[0].shape == (HEIGHT, WIDTH - 1, 3)
    captured = capsys.readouterr()
    assert "frame/s" in captured.err or "s/frame" in captured.err
    assert "moving.mp4" in captured.out


def test_a_shorter_run_leaves_none_of_a_longer_ones_frames(frames, checkpoint, two_objects, tmp_path):
    for count in (4, 2):
        clip = write_jpegs(tmp_path / "2024.05.01", frames[:count])
        for extra in sorted(clip.iterdir())[count:]:
            extra.unlink()
        run(clip, "--checkpoint", checkpoint, "--output", tmp_path / "out", "--mask", two_objects)
        assert len(frames_of(tmp_path / "out" / "2024.05.01.mp4")) == count
        assert list(masks_in(tmp_path / "out" / "2024.05.01")) == [f"{i:05d}" for i in range(count)]


def test_scores(clip, checkpoint, two_objects, tmp_path):
    """The table has what the predictor says; shown, they stand beside the objects and nowhere else."""
    arguments = (clip, "--checkpoint", checkpoint, "--mask", two_objects, "--output")
    run(*arguments, tmp_path / "plain")
    run(*arguments, tmp_path / "shown", "--show-scores")
    predictor = SAM2VideoPredictor(small_model())
    state = predictor.init_state(clip)
    numbered = read_objects(two_objects, (HEIGHT, WIDTH))
    for number in (3, 200):
        predictor.add_new_mask(state, 0, number, numbered == number)
    rows = iter(scores_in(tmp_path / "plain" / "moving"))
    for frame, numbers, _, scores in predictor.propagate_in_video(state, return_scores=True):
        for number, logit, iou in zip(numbers, *scores, strict=True):
            row = next(rows)
            assert list(row) == ["video", "frame", "object", "object_score", "predicted_iou"]
            assert (row["video"], row["frame"], row["object"]) == (
                f"{clip.parent.name}/{clip.name}",
                f"{frame:05d}",
                str(number),
            )
            assert float(row["object_score"]) == pytest.approx(1 / (1 + np.exp(-float(logit))), rel=1e-4)
            if frame == 0:
                assert row["predicted_iou"] == ""  # the mask was given
            else:
                assert float(row["predicted_iou"]) == pytest.approx(float(iou), rel=1e-4)
    assert next(rows, None) is None
    assert (tmp_path / "shown" / "moving" / "scores.csv").read_bytes() == (
        tmp_path / "plain" / "moving" / "scores.csv"
    ).read_bytes()
    plain, shown = (frames_of(tmp_path / name / "moving.mp4") for name in ("plain", "shown"))
    for before, after in zip(plain, shown, strict=True):
        assert (np.abs(before.astype(int) - after) > 60).any()


def test_prompts_on_a_later_frame_track_both_ways(frames, checkpoint, tmp_path):
    video = write_video(tmp_path / "clip.mp4", [f[:, :-1] for f in frames])
    run(
        video, "--checkpoint", checkpoint, "--output", tmp_path / "out", "--boxes", 5, 20, 50, 70, 70, 5, 110, 30,
        "--frame", 3, "--no-overlay",
    )  # fmt: skip
    assert len(masks_in(tmp_path / "out" / "clip")) == FRAMES
    assert not (tmp_path / "out" / "clip.mp4").exists()
    rows = scores_in(tmp_path / "out" / "clip")
    assert [(row["frame"], row["object"]) for row in rows] == [(f"{i:05d}", n) for i in range(FRAMES) for n in "12"]
    assert all(0 < float(row[name]) < 1 for row in rows for name in ("object_score", "predicted_iou"))


def test_clicks(clip, checkpoint, tmp_path):
    run(clip, "--checkpoint", checkpoint, "--output", tmp_path, "--points", 30, 45, 1, 5, 5, 0, "--no-overlay")
    assert len(masks_in(tmp_path / "moving")) == FRAMES


def test_a_corrupt_frame_leaves_what_was_written(frames, checkpoint, two_objects, tmp_path):
    clip = write_jpegs(tmp_path / "broken", frames)
    (clip / "00004.jpg").write_bytes((clip / "00004.jpg").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"frame 4, .*00004\.jpg, is not a readable picture"):
        run(clip, "--checkpoint", checkpoint, "--output", tmp_path / "out", "--mask", two_objects)
    pictures = masks_in(tmp_path / "out" / "broken")
    assert list(pictures) == ["00000", "00001", "00002", "00003"]
    assert all(p.load() for p in pictures.values())
    assert len(frames_of(tmp_path / "out" / "broken.mp4")) == 4
    assert [row["frame"] for row in scores_in(tmp_path / "out" / "broken")] == [name for name in pictures for _ in "12"]
    assert not list((tmp_path / "out").rglob(".*"))  # nothing half-written


def test_bad_arguments(clip, checkpoint, tmp_path):
    def fails(message, *arguments):
        with pytest.raises(ValueError, match=message):
            run(clip, "--checkpoint", checkpoint, "--output", tmp_path / "out", *arguments)

    fails("give points, boxes or a mask")
    fails("points are for one object", "--points", 1, 1, 1, "--boxes", 1, 1, 9, 9, 2, 2, 8, 8)
    fails("show_scores needs the overlay", "--points", 1, 1, 1, "--show-scores", "--no-overlay")
    fails("either a mask or boxes", "--boxes", 1, 1, 9, 9, "--mask", clip / "00000.jpg")
    fails("detections are boxes already", "--boxes", 1, 1, 9, 9, "--detections", tmp_path / "boxes.json")
    fails("score_threshold is for detections", "--points", 1, 1, 1, "--score-threshold", 0.5)
    fails("mask is a folder.*no points", "--points", 1, 1, 1, "--mask", tmp_path)
    fails("frame is for points, boxes or a mask", "--mask", tmp_path, "--frame", 2)
    fails("save_every must be at least 1, got 0", "--points", 1, 1, 1, "--save-every", 0)
    fails(r"frame_idx must be in \[0, 5\].*got 6", "--points", 1, 1, 1, "--frame", 6)
    assert not (tmp_path / "out").exists()


def test_bad_masks(clip, checkpoint, tmp_path):
    def fails(message, mask):
        with pytest.raises(ValueError, match=message):
            run(clip, "--checkpoint", checkpoint, "--output", tmp_path / "out", "--mask", mask)

    fails(r"00000\.jpg must have one colour for each object", clip / "00000.jpg")
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "zero.png")
    fails(r"zero\.png is empty: no pixel of it belongs to an object; the largest value is 0", tmp_path / "zero.png")
    Image.fromarray(np.zeros((10, WIDTH), np.uint8)).save(tmp_path / "low.png")
    fails(rf"low\.png is {WIDTH} x 10 pixels, the video {WIDTH} x {HEIGHT}", tmp_path / "low.png")
    (tmp_path / "text.png").write_text("no picture")
    fails(r"text\.png is not a readable picture", tmp_path / "text.png")
    assert not (tmp_path / "out").exists()


def test_numbers_beyond_255_are_written_in_16_bits(frames, checkpoint, tmp_path):
    """Two objects in colour, and one of a 16-bit mask whose number is beyond a byte's."""
    clip = write_jpegs(tmp_path / "short", frames[:2])
    for extra in sorted(clip.iterdir())[2:]:
        extra.unlink()
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[5:25, 80:110] = True
    numbered = np.where(square, np.uint16(300), disk(0, HEIGHT, WIDTH).astype(np.uint16))
    Image.fromarray(numbered).save(tmp_path / "deep.png")
    run(clip, "--checkpoint", checkpoint, "--output", tmp_path / "deep", "--mask", tmp_path / "deep.png")
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[numbered == 1], colours[numbered == 300] = (0, 0, 200), (200, 0, 0)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    run(clip, "--checkpoint", checkpoint, "--output", tmp_path / "colours", "--mask", tmp_path / "colours.png")
    deep, shallow = (masks_in(tmp_path / name / "short") for name in ("deep", "colours"))
    for name in ("00000", "00001"):
        assert (deep[name].mode, shallow[name].mode) == ("I;16", "P")
        assert {*np.unique(deep[name])} == {0, 1, 300}
        np.testing.assert_array_equal(np.array([0, 1, 300])[np.asarray(shallow[name])], deep[name])
    assert len(frames_of(tmp_path / "deep" / "short.mp4")) == 2
