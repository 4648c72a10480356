"""Calibration of the predicted IoU: against brute force, and from runs of ours, older ones' and other trackers'."""

import json
import shutil

import numpy as np
import pytest
import tyro
from scenes import FRAMES
from small import refining_model, small_model

from sam2refiner_jax import SAM2VideoPredictor, save_model
from sam2refiner_jax.data.clips import open_clips
from sam2refiner_jax.eval.calibration import calibration_of, calibration_of_videos, calibration_text
from sam2refiner_jax.eval.commands import video
from sam2refiner_jax.eval.image import Clock
from sam2refiner_jax.eval.run_folder import RunFolder
from sam2refiner_jax.eval.trackers import our_tracker
from sam2refiner_jax.eval.video import evaluate_videos
from sam2refiner_jax.eval.video_report import write_video_report


def brute_bins(predicted, measured):
    """For each tenth, those whose prediction is in it, one after the other."""
    bins = []
    for tenth in range(10):
        inside = [
            (p, m)
            for p, m in zip(predicted, measured, strict=True)
            if tenth / 10 <= p < (tenth + 1) / 10 or (tenth == 9 and p == 1)
        ]
        bins.append((len(inside), *(sum(column) / len(inside) for column in zip(*inside, strict=True))))
    return bins


def brute_rank_correlation(a, b):
    """Pearson's of the ranks, a rank being how many are less and half of those that are equal."""
    ranks = [[sum(y < x for y in values) + sum(y == x for y in values) / 2 for x in values] for values in (a, b)]
    a, b = ([x - sum(values) / len(values) for x in values] for values in ranks)
    return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force(seed):
    """Ties, whole tenths, 0 and 1 included; empty bins too."""
    rng = np.random.default_rng(seed)
    predicted = np.concatenate([rng.integers(0, 11, 30) / 10, rng.beta(4, 2, 80), [0.0, 1.0]])
    measured = np.where(rng.random(112) < 0.3, rng.integers(0, 3, 112) / 2, np.clip(predicted + 0.2, 0, 1))
    if seed == 3:
        keep = (predicted < 0.3) | (predicted >= 0.5)
        predicted, measured = predicted[keep], measured[keep]
    found = calibration_of(predicted, measured)
    bins = brute_bins(predicted, measured)
    assert [(b.low, b.high) for b in found.bins] == [(t / 10, (t + 1) / 10) for t in range(10)]
    for mine, (count, *means) in zip(found.bins, bins, strict=True):
        assert mine.count == count
        assert (mine.predicted, mine.measured) == (pytest.approx(tuple(means)) if count else (None, None))
    assert (seed == 3) == (0 in [b.count for b in found.bins])
    error = sum(count * abs(means[0] - means[1]) for count, *means in bins if count) / len(predicted)
    assert found.error == pytest.approx(error)
    assert found.rank_correlation == pytest.approx(brute_rank_correlation(predicted, measured))
    assert found.masks == len(predicted)


def test_perfect_and_constant_predictions():
    values = np.linspace(0, 1, 21)
    perfect = calibration_of(values, values)
    assert (perfect.error, perfect.rank_correlation) == (0, pytest.approx(1))
    assert calibration_of(values, 1 - values).rank_correlation == pytest.approx(-1)
    constant = calibration_of(np.full(4, 0.75), np.array([0.0, 0.5, 1.0, 1.0]))
    assert (constant.error, constant.rank_correlation) == (pytest.approx(0.125), None)
    nothing = calibration_of(np.zeros(0), np.zeros(0), absent=3)
    assert (nothing.masks, nothing.error, nothing.rank_correlation, nothing.absent) == (0, None, None, 3)
    assert "Expected calibration error -, rank correlation (Spearman) -" in calibration_text(nothing)


def record(clip, j, scores=None):
    """A clip of one object in as many frames as `j` has."""
    common = {"first": "00000", "frames": len(j), "j": float(np.mean(j)), "f": 0.5, "f_by_frame": [0.5] * len(j)}
    found = {"clip": clip, "objects": [{"object": 7, **common, "j_by_frame": j}]}
    if scores:
        logits, ious = map(list, zip(*scores, strict=True))
        found["scores"] = [{"object": 7, "object_score_logits": logits, "predicted_iou": ious}]
    return found


def test_frames_that_count(tmp_path):
    """Those whose object was taken for present; what an earlier version tracked has no scores."""
    scores = [(2.0, 0.92), (-0.5, 0.4), (0.0, 0.3), (0.1, 0.55)]
    records = [record("a", [0.9, 1.0, 0.0, 0.5], scores), record("earlier", [0.25, 0.75])]
    found = calibration_of_videos(records)
    assert (found.masks, found.absent, found.unknown) == (2, 2, 2)
    assert found.error == pytest.approx((0.02 + 0.05) / 2)
    text = write_video_report(tmp_path, records, "m", "davis", (), Clock())
    assert "| 0.5 to 0.6 | 1 | 0.550 | 0.500 |" in text
    assert "| 0.0 to 0.1 | 0 | - | - |" in text
    assert "Expected calibration error 0.035, rank correlation (Spearman) 1.000, over 2 masks" in text
    assert "2 frames do not count because the object was taken for absent" in text
    assert "2 frames do not count because an earlier version tracked their clips" in text
    assert text in (tmp_path / "table.md").read_text()
    written = json.loads((tmp_path / "results.json").read_text())["calibration"]
    assert written["bins"][5] == {"low": 0.5, "high": 0.6, "count": 1, "predicted": 0.55, "measured": 0.5}
    assert (written["error"], written["masks"]) == (pytest.approx(0.035), 2)

    without = write_video_report(tmp_path, records[1:], "m", "davis", (), Clock())
    assert "alibration" not in without
    assert json.loads((tmp_path / "results.json").read_text())["calibration"] is None


def evaluated(arguments):
    tyro.cli(video, args=[str(argument) for argument in arguments])
    output = arguments[arguments.index("--output") + 1]
    return json.loads((output / "results.json").read_text())


def test_a_run_reports_what_its_predictor_said(davis, tmp_path):
    """Also where it was interrupted after a clip; with boxes and with a second object that comes later."""
    model = small_model()
    save_model(model, tmp_path / "checkpoint")
    arguments = [davis, "--checkpoint", tmp_path / "checkpoint", "--prompt", "box", "--clips", "one", "two", "--output"]
    results = evaluated([*arguments, tmp_path / "whole"])

    predictor = SAM2VideoPredictor(model)
    predicted, measured = [], []
    measures = {
        (clip["clip"], each["object"]): dict(enumerate(each["j_by_frame"], start=FRAMES - 1 - each["frames"]))
        for clip in results["clips"]
        for each in clip["objects"]
    }
    for clip in open_clips(davis, ["one", "two"]):
        state = predictor.init_state(clip.frames)
        for each in clip.objects():
            y, x = np.nonzero(clip.truth(each.first, each.number))
            box = np.float32([x.min(), y.min(), x.max(), y.max()])
            predictor.add_new_points_or_box(state, int(each.first), each.number, box=box)
            list(predictor.propagate_in_video(state, start_frame_idx=int(each.first)))
        for place, each in enumerate(clip.objects()):
            for frame, j in measures[clip.name, each.number].items():
                scores = state.scores_on(frame)
                assert scores.object_score_logits[place] > 0
                predicted.append(float(scores.predicted_iou[place]))
                measured.append(j)
    found = results["calibration"]
    expected = calibration_of(np.array(predicted), np.array(measured))
    assert (found["masks"], found["absent"], found["unknown"]) == (len(predicted), 0, 0) == (4 + 4 + 2, 0, 0)
    assert found["error"] == pytest.approx(expected.error, abs=1e-4)
    kept = [value for clip in results["clips"] for each in clip["scores"] for value in each["predicted_iou"]]
    np.testing.assert_allclose(sorted(kept), sorted(predicted), atol=1e-4)

    # Interrupted after the first clip, and gone on with: the same table.
    folder = tmp_path / "halves"
    shutil.copytree(tmp_path / "whole", folder)
    for name in ("results.json", "table.md", "objects.csv"):
        (folder / name).unlink()
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(lines[0] + lines[1][:100])
    again = evaluated([*arguments, folder])
    assert again["calibration"] == found
    assert "## Calibration of the predicted IoU" in (folder / "table.md").read_text()


def test_other_trackers_and_predictions_have_none(davis, tmp_path):
    clips = ["--clips", "one"]
    results = evaluated([davis, "--model", "box", *clips, "--output", tmp_path / "box"])
    assert results["calibration"] is None
    assert "scores" not in results["clips"][0]
    assert "alibration" not in (tmp_path / "box" / "table.md").read_text()
    masks = ["--predictions", tmp_path / "box" / "masks"]
    assert evaluated([davis, *masks, *clips, "--output", tmp_path / "given"])["calibration"] is None


@pytest.mark.slow
def test_refined_masks_are_measured_against_the_coarse_ones_prediction(davis, tmp_path):
    """The measured IoU is the finer mask's; a record keeps both."""
    run = RunFolder(tmp_path, {})
    evaluate_videos(
        our_tracker(SAM2VideoPredictor(refining_model()), "m"), open_clips(davis, ["one"]), "mask", run, Clock()
    )
    (found,) = run.records
    (scores,) = found["scores"]
    assert scores["object"] == found["objects"][0]["object"] == 1
    assert len(scores["predicted_iou"]) == len(scores["object_score_logits"]) == len(found["objects"][0]["j_by_frame"])
    assert all(0 < value < 1 for value in scores["predicted_iou"])
    assert json.loads((tmp_path / "records.jsonl").read_text()) == found
