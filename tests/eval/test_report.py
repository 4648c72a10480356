"""Means, tables in the paper's layout, files, plots and the gallery."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from sam2refiner_jax.eval.image import Clock, ImageSettings, LeftOut, evaluate_images
from sam2refiner_jax.eval.image_sets import HQ_SAM_SETS, open_benchmarks
from sam2refiner_jax.eval.plots import gains
from sam2refiner_jax.eval.report import write_image_report
from sam2refiner_jax.eval.run_folder import RunFolder
from sam2refiner_jax.eval.segmenters import FilledBox
from sam2refiner_jax.eval.tables import image_tables, summarise


def record(benchmark, index, iou, prompt="box", group=None, masks=("coarse", "refined")):
    results = [
        {"prompt": prompt, "mask": mask, "iou": iou + 0.1 * i, "boundary_iou": iou / 2} for i, mask in enumerate(masks)
    ]
    return {"benchmark": benchmark, "index": index, "name": f"{benchmark}{index}", "group": group or benchmark} | {
        "height": 4,
        "width": 5,
        "results": results,
    }


def clicked(index, ious, noc85, noc90):
    result = {"prompt": "clicks", "mask": "mask", "ious": ious, "noc85": noc85, "noc90": noc90}
    return record("a", index, 0.0) | {"results": [result]}


def test_means_are_over_items_then_over_sets():
    summary = summarise([record("a", 0, 0.2), record("a", 1, 0.4), record("b", 0, 0.6)])
    coarse = summary["box"]["coarse"]
    assert coarse["a"] == pytest.approx({"iou": 0.3, "boundary_iou": 0.15, "items": 2})
    assert coarse["average"] == pytest.approx({"iou": 0.45, "boundary_iou": 0.225, "items": 3})
    assert summary["box"]["refined"]["average"]["iou"] == pytest.approx(0.55)


def test_means_of_clips_come_before_their_mean():
    records = [record("a", 0, 0.2, group="x"), record("a", 1, 0.4, group="x"), record("a", 2, 0.9, group="y")]
    assert summarise(records)["box"]["coarse"]["a"]["iou"] == pytest.approx(0.6)


def test_clicks_are_counted_and_a_mask_stays_after_its_last_click():
    summary = summarise([clicked(0, [0.5, 0.95], 2, 2), clicked(1, [0.1] * 20, 20, 20)])
    entry = summary["clicks"]["mask"]["a"]
    assert (entry["noc85"], entry["noc90"], entry["failed85"], entry["failed90"]) == (11, 11, 0.5, 0.5)
    assert (entry["iou@1"], entry["iou@20"]) == pytest.approx((0.3, 0.525))


def test_the_papers_figures_stand_beside_those_of_its_sets():
    records = [record(name, 0, 0.5) for name in HQ_SAM_SETS]
    records += [record(name, 1, 0.5, prompt="points-2") for name in HQ_SAM_SETS]
    text = image_tables(summarise(records), "mine")
    assert "| model | DIS-VD | COIFT | HRSOD | ThinObject5K-TE | average |" in text
    assert "| mine, refined | 60.00 / 25.00 | 60.00 / 25.00 | 60.00 / 25.00 | 60.00 / 25.00 | 60.00 / 25.00 |" in text
    assert (
        "| paper: SAM2Refiner hiera_l | 85.2 / 80.6 | 96.6 / 93.6 | 94.7 / 90.2 | 95.9 / 91.0 | 93.1 / 88.9 |" in text
    )
    expected = "| 2 | 50.00 / 25.00 | 60.00 / 25.00 | 30.8 / 26.2 | 35.6 / 31.7 | 44.6 / 40.2 | 52.5 / 47.4 |"
    assert expected in text


def test_other_sets_have_no_figures_of_the_paper():
    text = image_tables(summarise([record("mine", 0, 0.5)]), "model")
    assert "paper" not in text
    assert "average" not in text


def test_part_of_the_papers_sets_has_no_average_of_the_paper():
    text = image_tables(summarise([record("COIFT", 0, 0.5), record("mine", 0, 0.5)]), "model")
    assert "| paper: SAM2Refiner hiera_l | 96.6 / 93.6 | - | - |" in text


def test_gains_are_of_the_first_kind_of_prompt_that_gives_a_mask():
    assert [gain for gain, _ in gains([record("a", 0, 0.5), record("a", 1, 0.2)])] == pytest.approx([0.1, 0.1])
    assert gains([record("a", 0, 0.5, masks=("mask",))]) == []
    assert gains([clicked(0, [0.5], 20, 20)]) == []


class Halving(FilledBox):
    kinds = ("coarse", "refined")
    name = "halving"

    def segment(self, encoded, prompts, kind):
        answers = super().segment(encoded, prompts, kind)
        if kind == "coarse":
            answers[0].mask[::2] = False
        return answers


def report(folder, pairs, segmenter, prompts, left_out=()):
    benchmarks = open_benchmarks([f"folder:{pairs}"])
    settings, run, clock = ImageSettings(prompts), RunFolder(folder, {}), Clock()
    evaluate_images(segmenter, benchmarks, settings, run, clock)
    return write_image_report(segmenter, benchmarks, settings, run, left_out, clock)


def test_files_of_a_report(pairs, tmp_path):
    left_out = [LeftOut("folder:pairs", "photo9", "the truth is empty")]
    text = report(tmp_path, pairs, Halving(), ("box", "points-1", "points-3"), left_out)
    assert "Left out: 1 items" in text
    assert "- folder:pairs: photo9: the truth is empty" in text
    assert "of the two" in text
    assert text in (tmp_path / "table.md").read_text()
    document = json.loads((tmp_path / "results.json").read_text())
    assert len(document["items"]) == 5
    assert document["left_out"][0]["name"] == "photo9"
    box = document["summary"]["box"]
    assert box["refined"]["folder:pairs"]["iou"] > 1.5 * box["coarse"]["folder:pairs"]["iou"]
    rows = list(csv.DictReader((tmp_path / "items.csv").open()))
    assert len(rows) == 5 * 3 * 2
    mean = np.mean([float(r["iou"]) for r in rows if (r["prompt"], r["mask"]) == ("box", "refined")])
    assert mean == pytest.approx(box["refined"]["folder:pairs"]["iou"])
    for name in ("points.png", "gains.png", "gallery.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 10


def test_a_report_of_one_kind_of_mask_shows_no_gains(pairs, tmp_path):
    report(tmp_path, pairs, FilledBox(), ("box",))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"settings.json", "records.jsonl", "results.json", "items.csv", "table.md", "gallery.png"}


def test_a_run_of_nothing_but_left_out_items_says_why(tmp_path):
    left_out = [LeftOut("a", "photo", "photo.png is not a readable picture")]
    run = RunFolder(tmp_path, {})
    with pytest.raises(ValueError, match=r"not one item .* 1 were left out; the first: photo: photo.png is not"):
        write_image_report(FilledBox(), [], ImageSettings(), run, left_out, Clock())
