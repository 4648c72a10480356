"""The video benchmark: layouts, masks on disk, J and F, and what is said about other folders."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tyro
from PIL import Image
from scenes import FRAMES, HEIGHT, WIDTH, numbered_frames, write_annotations
from small import refining_model, small_model
from videos import moving_frames, write_jpegs

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.data.clips import open_clips, read_names
from sam2refiner_jax.data.masks import davis_palette
from sam2refiner_jax.eval.baselines import BaselineTracker, CarryingTracker
from sam2refiner_jax.eval.commands import video
from sam2refiner_jax.eval.image import Clock
from sam2refiner_jax.eval.run_folder import RunFolder
from sam2refiner_jax.eval.segmenters import FilledBox, GrabCut
from sam2refiner_jax.eval.trackers import Start, our_tracker, start_of
from sam2refiner_jax.eval.video import evaluate_videos, score_clip, track_clip
from sam2refiner_jax.eval.video_report import summarise_videos, write_video_report


@pytest.fixture(scope="module")
def lvos(tmp_path_factory):
    """Two clips as in LVOS: frames 1, 6, 11..., and spans of the objects."""
    root = tmp_path_factory.mktemp("lvos")
    names = [f"{1 + 5 * i:08d}" for i in range(FRAMES)]
    for clip in ("known", "new"):
        folder = write_jpegs(root / "JPEGImages" / clip, moving_frames(FRAMES, HEIGHT, WIDTH))
        for i, name in reversed(list(enumerate(names))):
            (folder / f"{i:05d}.jpg").rename(folder / f"{name}.jpg")
        write_annotations(root / "Annotations" / clip, numbered_frames(), names)
    spans = {"1": (1, 27, 6), "2": (11, 22, 3)}
    objects = {
        number: {"frame_range": {"start": str(s), "end": str(e), "frame_nums": str(n)}}
        for number, (s, e, n) in spans.items()
    }
    meta = {"videos": {clip: {"objects": objects} for clip in ("known", "new")}}
    (root / "valid_meta.json").write_text(json.dumps(meta))
    return root


def copy_truth(clip, folder, change=lambda numbers: numbers):
    folder.mkdir(parents=True)
    for name in clip.frame_names():
        Image.fromarray(change(clip.numbers(name))).save(folder / f"{name}.png")
    return folder


def test_davis_objects_and_the_frames_that_count(davis):
    clips = {clip.name: clip for clip in open_clips(davis)}
    assert sorted(clips) == ["one", "two", "white"]
    assert [(o.number, o.first, o.scored) for o in clips["two"].objects()] == [
        (1, "00000", ("00001", "00002", "00003", "00004")),
        (2, "00002", ("00003", "00004")),
    ]
    assert [o.number for o in clips["white"].objects()] == [255]


def test_void_pixels_of_davis_2017_are_no_object(davis, tmp_path):
    shutil.copytree(davis, tmp_path / "davis")
    (clip,) = open_clips(tmp_path / "davis", ["two"])
    path = clip.annotations / "00001.png"
    numbers = np.asarray(Image.open(path)).copy()
    numbers[:5] = 255
    Image.fromarray(numbers).save(path)
    assert [each.number for each in clip.objects()] == [1, 2]
    assert not clip.numbers("00001")[:5].any()


def test_lvos_objects_and_the_frames_that_count(lvos):
    """As its evaluator: every fifth frame of the span, the first and the last left out."""
    clip = open_clips(lvos)[0]
    assert [(o.number, o.first, o.scored) for o in clip.objects()] == [
        (1, "00000001", ("00000006", "00000011", "00000016", "00000021")),
        (2, "00000011", ("00000016",)),
    ]


@pytest.mark.parametrize("name", ["one", "two", "white"])
def test_scores_equal_vos_benchmark(davis, tmp_path, name):
    benchmark = pytest.importorskip("vos_benchmark.benchmark")
    (clip,) = open_clips(davis, [name])
    rng = np.random.default_rng(3)
    copy_truth(clip, tmp_path / name, lambda numbers: np.roll(numbers, rng.integers(-3, 4, 2), (0, 1)))
    _, j, f = benchmark.VideoEvaluator(str(davis / "Annotations" / "480p"), str(tmp_path))(name)
    scores = {each["object"]: each for each in score_clip(clip, tmp_path / name)}
    assert scores.keys() == j.keys()
    # From when an object comes, vos-benchmark counts the frame in which it is prompted too.
    same = [number for number, each in scores.items() if each["first"] == "00000"]
    np.testing.assert_allclose([scores[n]["j"] for n in same], [j[n] / 100 for n in same], atol=1e-12)
    np.testing.assert_allclose([scores[n]["f"] for n in same], [f[n] / 100 for n in same], atol=1e-12)
    assert all(0.3 < each["j"] < 0.99 for each in scores.values())


def test_the_truth_itself_scores_one(lvos, tmp_path):
    clip = open_clips(lvos)[0]
    assert [(e["j"], e["f"]) for e in score_clip(clip, copy_truth(clip, tmp_path / "p"))] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("kind", ["palette colours", "grey", "opaque", "alpha"])
@pytest.mark.parametrize("name", ["two", "white"])
def test_the_truth_saved_otherwise_scores_one(davis, tmp_path, name, kind):
    """In RGB and RGBA, as plotting programs write."""
    (clip,) = open_clips(davis, [name])
    folder = copy_truth(clip, tmp_path / "p")
    for path in folder.iterdir():
        numbers = np.asarray(Image.open(path))
        rgb = davis_palette()[numbers] if kind != "grey" else np.repeat(numbers[..., None], 3, -1)
        alpha = np.where(numbers > 0, 255, 255 * (kind != "alpha")).astype(np.uint8)
        Image.fromarray(rgb if kind in ("palette colours", "grey") else np.dstack([rgb, alpha])).save(path)
        path.rename(path.with_suffix(".PNG"))
        path.with_name(f"._{path.name}").write_bytes(b"left behind by a file manager")
    assert {(each["j"], each["f"]) for each in score_clip(clip, folder)} == {(1, 1)}


def test_colours_that_number_nothing_are_named(davis, tmp_path):
    (clip,) = open_clips(davis, ["two"])
    folder = copy_truth(clip, tmp_path / "p")
    for path in folder.iterdir():
        colours = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
        Image.fromarray(colours[np.asarray(Image.open(path))]).save(path)
    with pytest.raises(ValueError, match=r"00001\.png must have the colours of the DAVIS palette"):
        score_clip(clip, folder)


def test_black_and_white_truth_takes_any_number_for_the_object(davis, tmp_path):
    (clip,) = open_clips(davis, ["white"])
    folder = copy_truth(clip, tmp_path / "p", lambda numbers: numbers // 255)
    assert [(each["j"], each["f"]) for each in score_clip(clip, folder)] == [(1, 1)]


def test_capitals_count_and_what_is_hidden_does_not(davis, tmp_path):
    shutil.copytree(davis, tmp_path / "davis")
    (before,) = (clip.objects() for clip in open_clips(davis, ["two"]))
    for path in sorted((tmp_path / "davis").rglob("*/two/*")):
        path.rename(path.with_suffix(path.suffix.upper()))
        path.with_name(f"._{path.name}").write_bytes(b"left behind by a file manager")
    (tmp_path / "davis" / "JPEGImages" / "480p" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "davis" / "._valid_meta.json").write_bytes(b"left behind by a file manager")
    clips = {clip.name: clip for clip in open_clips(tmp_path / "davis")}
    assert sorted(clips) == ["one", "two", "white"]
    assert clips["two"].objects() == before


def test_missing_and_misshapen_predictions_are_named(davis, tmp_path):
    (clip,) = open_clips(davis, ["one"])
    folder = copy_truth(clip, tmp_path / "p")
    (folder / "00005.png").unlink()  # the last does not count
    score_clip(clip, folder)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / "00003.png")
    with pytest.raises(ValueError, match=r"00003.png must be as large as its annotation, 80 x 60, got 4 x 3"):
        score_clip(clip, folder)
    (folder / "00003.png").unlink()
    with pytest.raises(ValueError, match=r"clip one has no prediction for frame 00003: expected .*00003.png"):
        score_clip(clip, folder)


def test_other_layouts_are_refused(davis, tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        open_clips(tmp_path / "nothing")
    (tmp_path / "frames").mkdir()
    with pytest.raises(ValueError, match=r"must hold JPEGImages/ and Annotations/ .* found frames"):
        open_clips(tmp_path)
    with pytest.raises(ValueError, match="has no clip other; it has one, two, white"):
        open_clips(davis, ["other"])
    shutil.copytree(davis, tmp_path / "davis")
    shutil.rmtree(tmp_path / "davis" / "Annotations" / "480p" / "two")
    with pytest.raises(ValueError, match=r"clip two must have \*.png in .*two, got none"):
        open_clips(tmp_path / "davis")
    (tmp_path / "davis" / "valid_meta.json").write_text('{"videos": {"one": {}}}')
    with pytest.raises(ValueError, match=r"valid_meta.json must give each video's objects.*KeyError\('objects'\)"):
        open_clips(tmp_path / "davis")


def test_lists_of_clips(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text("bear\n\ncamel\n")
    assert read_names(path) == ["bear", "camel"]
    path.write_text("/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n" * 2)
    assert read_names(path) == ["bear"]
    path.write_text("\n")
    with pytest.raises(ValueError, match="must name a clip on each line"):
        read_names(path)


def test_starts():
    truth = numbered_frames()[0] == 1
    assert start_of("mask", truth).mask is truth
    assert start_of("box", truth).prompt.box == (8, 18, 32, 42)
    assert start_of("click", truth).prompt.points == ((20, 30, 1),)


def test_masks_are_written_as_the_evaluators_read_them(davis, tmp_path):
    """Also for frames before the first object; grayscale for DAVIS 2016, with a palette for others."""
    for clip in open_clips(davis):
        track_clip(BaselineTracker(FilledBox()), clip, "mask", tmp_path / clip.name)
        pictures = [Image.open(tmp_path / clip.name / f"{name}.png") for name in clip.frame_names()]
        assert {p.mode for p in pictures} == {"L" if clip.name == "white" else "P"}
        expected = clip.numbers("00000").copy()
        np.testing.assert_array_equal(np.asarray(pictures[0]), expected)
        assert set(np.unique(np.asarray(pictures[3]))) == {0, *(o.number for o in clip.objects())}


def test_grabcut_follows_a_moving_object(davis, tmp_path):
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3), np.uint8)
    photos = [np.where((n == 1)[..., None], 200 + noise, noise).astype(np.uint8) for n in numbered_frames()]
    frames = write_jpegs(tmp_path / "moving", photos)
    starts = {0: {1: Start(mask=numbered_frames()[0] == 1)}}
    for baseline, follows in ((GrabCut(), True), (FilledBox(), False)):
        last = [logits[0] > 0 for _, _, logits, _ in BaselineTracker(baseline).track(frames, starts)][-1]
        truth = numbered_frames()[-1] == 1
        assert ((last & truth).sum() / (last | truth).sum() > 0.8) == follows


def test_a_carried_mask_moves_with_the_picture_or_stays(tmp_path):
    """A textured picture that goes 3 pixels a frame: the flow is known."""
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8), (0, 0), 2)
    photos = [np.roll(texture, 3 * i, axis=1)[:, :128] for i in range(6)]
    truths = [np.zeros((96, 128), bool) for _ in photos]
    for i, truth in enumerate(truths):
        truth[30:62, 30 + 3 * i : 70 + 3 * i] = True
    frames = write_jpegs(tmp_path / "moving", photos)
    starts = {1: {7: Start(mask=truths[1])}}
    for name, moves in (("flow", True), ("copy", False)):
        found = list(CarryingTracker(name).track(frames, starts))
        assert [each.frame for each in found] == [1, 2, 3, 4, 5]
        last = found[-1].logits[0] > 0
        assert ((last & truths[5]).sum() / (last | truths[5]).sum() > 0.9) == moves
        assert (last == truths[1]).all() != moves
    boxed = next(CarryingTracker("copy").track(frames, {0: {1: start_of("box", truths[0])}}))
    np.testing.assert_array_equal(boxed.logits[0] > 0, truths[0])
    with pytest.raises(ValueError, match="name must be copy or flow, got 'still'"):
        CarryingTracker("still")


@pytest.fixture(scope="module")
def tracker():
    return our_tracker(SAM2VideoPredictor(small_model()), "small")


def test_an_object_that_comes_later_is_tracked_as_if_alone(tracker, davis):
    (clip,) = open_clips(davis, ["two"])
    frames = clip.frames
    first, second = Start(mask=clip.truth("00000", 1)), Start(mask=clip.truth("00002", 2))
    together = list(tracker.track(frames, {0: {1: first}, 2: {2: second}}))
    assert [(index, numbers) for index, numbers, *_ in together] == [
        (i, [1] if i < 2 else [1, 2]) for i in range(FRAMES)
    ]
    alone = {1: list(tracker.track(frames, {0: {1: first}})), 2: list(tracker.track(frames, {2: {2: second}}))}
    for number, results in alone.items():
        for index, _, logits, _ in results:
            found = together[index][2][number - 1]
            np.testing.assert_allclose(found, logits[0], atol=1e-3 * np.abs(logits).max())


def test_runs_go_on_with_the_clip_where_they_were(tracker, davis, tmp_path, monkeypatch):
    clips = open_clips(davis, ["one", "two"])
    run = RunFolder(tmp_path / "out", {})
    evaluate_videos(tracker, clips[:1], "click", run, Clock())
    (tmp_path / "out" / "masks" / "two").mkdir(parents=True)  # what an interrupted clip leaves
    tracked = []
    monkeypatch.setattr(tracker, "track", lambda *args: tracked.append(args) or type(tracker).track(tracker, *args))
    evaluate_videos(tracker, clips, "click", RunFolder(tmp_path / "out", {}), Clock())
    assert len(tracked) == 1
    records = RunFolder(tmp_path / "out", {}).records
    assert [record["clip"] for record in records] == ["one", "two"]
    for clip, record in zip(clips, records, strict=True):
        assert record["objects"] == score_clip(clip, tmp_path / "out" / "masks" / clip.name)


def evaluation_of(root, *arguments):
    """What `eval video` of a baseline writes as results.json, and its exit status."""
    status = 0
    try:
        tyro.cli(video, args=[str(root), "--model", "box", "--output", str(root / "out"), *arguments])
    except SystemExit as left:
        status = left.code
    return json.loads((root / "out" / "results.json").read_text()), status


def write_clip(root, name, frames):
    """A clip in which objects 1 and 2 are where `frames` says: a set of their numbers for each frame."""
    write_jpegs(root / "JPEGImages" / "480p" / name, moving_frames(len(frames), HEIGHT, WIDTH))
    annotations = []
    for there in frames:
        annotations.append(np.zeros((HEIGHT, WIDTH), np.uint8))
        for number in there:
            annotations[-1][10 * number : 10 * number + 8, 5:40] = number
    write_annotations(root / "Annotations" / "480p" / name, annotations)


def test_objects_without_a_frame_to_score_are_left_out_and_listed(davis, tmp_path):
    shutil.copytree(davis, tmp_path, dirs_exist_ok=True)
    write_clip(tmp_path, "last", [{1}, {1}, {1}, {1, 2}])  # the second object is in the last frame only
    write_clip(tmp_path, "short", [{1}, {1}])
    write_clip(tmp_path, "first", [{1}, {1}, {1}])
    for name in ("00001.png", "00002.png"):  # only the first frame has an annotation
        (tmp_path / "Annotations" / "480p" / "first" / name).unlink()
    results, status = evaluation_of(tmp_path)
    assert status == 0
    scored = {record["clip"]: [each["object"] for each in record["objects"]] for record in results["clips"]}
    assert scored == {"first": [], "last": [1], "one": [1], "short": [], "two": [1, 2], "white": [255]}
    assert [(each["clip"], each["object"]) for each in results["left_out"]] == [
        ("first", "object 1"),
        ("last", "object 2"),
        ("short", "object 1"),
    ]
    alone, _ = evaluation_of(shutil.copytree(davis, tmp_path / "alone"))
    of = {record["clip"]: record["objects"] for record in alone["clips"]}
    objects = [each for record in results["clips"] for each in record["objects"]]
    assert {record["clip"]: record["objects"] for record in results["clips"]}.items() >= of.items()
    assert results["summary"]["objects"] == len(objects) == 5
    assert results["summary"]["j"] == pytest.approx(np.mean([each["j"] for each in objects]))
    table = (tmp_path / "out" / "table.md").read_text()
    assert "4 clips, 5 objects" in table
    assert "- clip last, object 2: it has no frame to score between its first" in table
    again, _ = evaluation_of(tmp_path)  # from the records alone
    assert again["left_out"] == results["left_out"]
    predicted, _ = evaluation_of(tmp_path, "--predictions", str(tmp_path / "out" / "masks"), "--output", str(tmp_path))
    assert not predicted.keys() ^ results.keys()
    assert json.loads((tmp_path / "results.json").read_text())["left_out"] == results["left_out"]


def test_a_set_without_a_frame_to_score_is_an_error(tmp_path):
    write_clip(tmp_path, "short", [{1}, {1}])
    with pytest.raises(ValueError, match=r"not one object could be scored; .*clip short, object 1: it has no frame"):
        evaluation_of(tmp_path)


@pytest.mark.parametrize("file", ["JPEGImages/480p/one/00002.jpg", "Annotations/480p/one/00001.png"])
def test_a_clip_that_cannot_be_read_is_left_out_and_the_status_says_so(file, davis, tmp_path, capsys):
    shutil.copytree(davis, tmp_path, dirs_exist_ok=True)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(b"no picture")
    results, status = evaluation_of(tmp_path)
    assert status == 1
    assert "1 clips could not be read" in capsys.readouterr().err
    assert [record["clip"] for record in results["clips"]] == ["two", "white"]
    (left_out,) = results["left_out"]
    assert left_out["clip"] == "one"
    assert Path(file).name in left_out["reason"]
    (tmp_path / file).write_bytes(content)  # mended, it is taken up
    results, status = evaluation_of(tmp_path)
    assert status == 0
    assert [record["clip"] for record in results["clips"]] == ["one", "two", "white"]


def test_settings_tell_refined_from_plain_tracking():
    plain = our_tracker(SAM2VideoPredictor(refining_model(), refine=False), "m").settings()
    refined = our_tracker(SAM2VideoPredictor(refining_model()), "m").settings()
    assert (plain["refined"], refined["refined"]) == (False, True)


def records_of(**scores):
    common = {"object": 1, "first": "00000", "frames": 3}
    return [{"clip": clip, "objects": [{**common, "j": j, "f": f}]} for clip, (j, f) in scores.items()]


def test_seen_and_unseen_count_alike():
    records = records_of(a=(0.2, 0.4), b=(0.4, 0.6), c=(0.8, 1.0))
    summary = summarise_videos(records, ["c"])
    assert (summary.seen, summary.unseen) == (pytest.approx((0.3, 0.5)), pytest.approx((0.8, 1.0)))
    assert summary.jf == pytest.approx(0.65)
    assert summarise_videos(records).jf == pytest.approx((1.4 / 3 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="of 3 it names 0"):
        summarise_videos(records, ["other"])


def test_the_papers_figures_stand_beside_lvos_only(tmp_path):
    records = records_of(a=(0.2, 0.4), b=(0.4, 0.6))
    v1 = write_video_report(tmp_path, records, "m", "lvos", (), Clock())
    assert "| m | 40.00 | 30.00 | 50.00 |" in v1
    assert "| paper: SAM2Refiner | 80.9 | 75.1 | 86.8 |" in v1
    v2 = write_video_report(tmp_path, records, "m", "lvos", ["b"], Clock())
    assert "| m | 40.00 | 20.00 | 40.00 | 40.00 | 60.00 |" in v2
    assert "| paper: SAM2Refiner | 79.9 | 78.7 | 87.9 | 71.6 | 81.5 |" in v2
    assert "paper" not in write_video_report(tmp_path, records, "m", "davis", (), Clock())
    assert (tmp_path / "objects.csv").read_text().splitlines()[0] == "clip,seen,object,first,frames,j,f,j&f"
