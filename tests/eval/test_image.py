"""The image benchmark: what is recorded, shared, left out, interrupted and resumed."""

import json

import numpy as np
import pytest
from PIL import Image
from scenes import scene

from sam2refiner_jax.eval.image import Clock, ImageSettings, evaluate_images
from sam2refiner_jax.eval.image_sets import Benchmark, open_benchmarks
from sam2refiner_jax.eval.metrics import boundary_iou, iou
from sam2refiner_jax.eval.run_folder import RunFolder
from sam2refiner_jax.eval.segmenters import Answer, FilledBox
from sam2refiner_jax.image.boxes import box_around


class Regions:
    """Three photos with 1, 3 and 2 objects, as samples in a row."""

    def __init__(self, empty=(), broken=()):
        self.samples = []
        for seed, count in enumerate((1, 3, 2)):
            photo, masks = scene(seed, count)
            self.samples += [{"image": photo.copy(), "mask": mask} for mask in masks]
        self.broken = broken
        for index in empty:
            self.samples[index]["mask"] = np.zeros_like(self.samples[index]["mask"])

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError(f"{self.name_of(index)}.png is not a readable picture")
        return self.samples[index]

    def name_of(self, index):
        return f"region{index}"


class Recorder(FilledBox):
    """The filled box, in batches; says what it was asked, and can be interrupted."""

    kinds = ("half", "whole")

    def __init__(self, batch_size=2, photos_until_interrupt=99):
        self.batch_size = batch_size
        self.left = photos_until_interrupt
        self.encoded = []

    def encode(self, photos):
        if self.left < len(photos):
            raise KeyboardInterrupt
        self.left -= len(photos)
        self.encoded.append(len(photos))
        return photos

    def segment(self, encoded, prompts, kind):
        answers = super().segment(encoded, prompts, kind)
        for answer in answers:
            if answer is not None and kind == "half":
                answer.mask[:, answer.mask.shape[1] // 2 :] = False
        return answers


def run(folder, segmenter, source=None, prompts=("box",), **settings):
    benchmark = Benchmark("regions", "test:", source or Regions())
    run_folder = RunFolder(folder, {"prompts": list(prompts)})
    left_out = evaluate_images(segmenter, [benchmark], ImageSettings(prompts, **settings), run_folder, Clock())
    return run_folder.records, left_out


def by_index(records):
    return sorted(records, key=lambda record: record["index"])


def test_records_hold_the_scores_of_each_prompt_and_mask(tmp_path):
    records, left_out = run(tmp_path, Recorder(), prompts=("box", "points-2"))
    assert left_out == []
    assert [record["name"] for record in by_index(records)] == [f"region{i}" for i in range(6)]
    for record, sample in zip(by_index(records), Regions().samples, strict=True):
        truth = sample["mask"] > 128
        x0, y0, x1, y1 = map(int, box_around(truth))
        box = np.zeros_like(truth)
        box[y0 : y1 + 1, x0 : x1 + 1] = True
        results = {(r["prompt"], r["mask"]): r for r in record["results"]}
        assert list(results) == [(p, m) for p in ("box", "points-2") for m in ("half", "whole")]
        assert results["box", "whole"]["iou"] == iou(box, truth)
        assert results["box", "whole"]["boundary_iou"] == boundary_iou(box, truth)


@pytest.mark.parametrize(("batch_size", "encoded"), [(1, [1, 1, 1]), (2, [2, 1]), (8, [3])])
def test_objects_of_a_photo_share_its_encoding(tmp_path, batch_size, encoded):
    segmenter = Recorder(batch_size)
    records, _ = run(tmp_path, segmenter)
    assert segmenter.encoded == encoded
    alone, _ = run(tmp_path / "alone", Recorder(1))
    assert by_index(records) == by_index(alone)


def test_rough_masks_of_a_folder_are_scored_and_prompt(tmp_path):
    """One is empty, one of another size, one is missing; a baseline fills the box of each."""
    samples, folder = Regions().samples, tmp_path / "rough"
    folder.mkdir()
    rough = [np.roll(sample["mask"] > 128, 3, axis=1) for sample in samples]
    rough[1][:] = False
    for i, mask in enumerate(rough[:5]):
        Image.fromarray(mask if i != 2 else mask[:-1]).save(folder / f"region{i}.png")
    kind = f"masks:{folder}"
    records, left_out = run(tmp_path / "run", Recorder(), prompts=("box", kind))
    assert [item.name for item in left_out] == ["region2", "region5"]
    assert "region2.png" in left_out[0].reason
    assert "region5.png, its rough mask, is not there" in left_out[1].reason
    found = {record["name"]: [r for r in record["results"] if r["prompt"] == kind] for record in records}
    assert [r["mask"] for r in found["region0"]] == ["given", "half", "whole"]
    for i in (0, 1, 3, 4):
        truth, box = samples[i]["mask"] > 128, np.zeros_like(rough[i])
        if rough[i].any():
            x0, y0, x1, y1 = map(int, box_around(rough[i]))
            box[y0 : y1 + 1, x0 : x1 + 1] = True
        given, _, whole = found[f"region{i}"]
        assert (given["iou"], given["boundary_iou"]) == (iou(rough[i], truth), boundary_iou(rough[i], truth))
        assert whole["iou"] == iou(box, truth)


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path):
    whole, _ = run(tmp_path / "whole", Recorder(1))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", Recorder(1, photos_until_interrupt=2))
    half = (tmp_path / "resumed" / "records.jsonl").read_text().splitlines()
    assert len(half) == 4
    segmenter = Recorder(1)
    resumed, _ = run(tmp_path / "resumed", segmenter)
    assert segmenter.encoded == [1]
    assert resumed == whole


def test_a_line_that_was_cut_off_is_evaluated_again(tmp_path):
    whole, _ = run(tmp_path, Recorder(1))
    path = tmp_path / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 20])
    segmenter = Recorder(1)
    resumed, _ = run(tmp_path, segmenter)
    assert segmenter.encoded == [1]
    assert resumed == whole
    assert path.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path):
    run(tmp_path, Recorder(1))
    path = tmp_path / "records.jsonl"
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(ValueError, match=r"records.jsonl, line 1, is damaged"):
        run(tmp_path, Recorder(1))


def test_other_settings_are_refused_with_the_difference(tmp_path):
    run(tmp_path, Recorder(1))
    with pytest.raises(ValueError, match=r"prompts was \['box'\] and is \['points-1'\]. Choose another output folder"):
        run(tmp_path, Recorder(1), prompts=("points-1",))


def test_empty_and_unreadable_items_are_left_out_and_named(tmp_path):
    records, left_out = run(tmp_path, Recorder(), Regions(empty=(0, 2), broken=(4,)))
    assert [record["index"] for record in by_index(records)] == [1, 3, 5]
    assert [(item.name, item.reason) for item in left_out] == [
        ("region0", "the truth is empty"),
        ("region2", "the truth is empty"),
        ("region4", "region4.png is not a readable picture"),
    ]


def test_limit(tmp_path):
    records, _ = run(tmp_path, Recorder(), limit=2)
    assert sorted(record["index"] for record in records) == [0, 1]


class Learner:
    """Each click adds, or removes, what is bright around it; wants its own logits back."""

    kinds = ("mask",)
    batch_size = 2
    name = "learner"

    def settings(self):
        return {}

    def encode(self, photos):
        return [photo.min(axis=-1) >= 150 for photo in photos]

    def segment(self, encoded, prompts, kind):
        answers = []
        for bright, prompt in zip(encoded, prompts, strict=True):
            if prompt is None:
                answers.append(None)
                continue
            assert (prompt.logits is None) == (len(prompt.points) == 1)
            mask = np.zeros_like(bright) if prompt.logits is None else prompt.logits[0] > 0
            x, y, label = prompt.points[-1]
            rows, columns = np.ogrid[: bright.shape[0], : bright.shape[1]]
            mask = mask.copy()
            mask[bright & ((rows - y) ** 2 + (columns - x) ** 2 <= 49)] = bool(label)
            answers.append(Answer(mask, np.where(mask, 1.0, -1.0).astype(np.float32)[None]))
        return answers


def test_clicks_go_on_until_the_mask_is_good(tmp_path):
    records, _ = run(tmp_path, Learner(), prompts=("clicks",))
    for record in records:
        (result,) = record["results"]
        ious = result["ious"]
        assert len(ious) == 20 or (ious[-1] >= 0.9 and max(ious[:-1]) < 0.9)
        assert result["noc90"] == len(ious)
        assert result["noc85"] == min(20, next(i for i, v in enumerate([*ious, 1.0], start=1) if v >= 0.85))
        assert ious[1] > ious[0]
    assert len({len(record["results"][0]["ious"]) for record in records}) > 1
    alone, _ = run(tmp_path / "alone", type("Alone", (Learner,), {"batch_size": 1})(), prompts=("clicks",))
    assert by_index(alone) == by_index(records)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ()}, "at least one"),
        ({"limit": 0}, "at least 1"),
        ({"prompts": ("masks:nowhere",)}, "there is no folder nowhere"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageSettings(**arguments)


def test_a_folder_of_pairs_is_a_set(pairs):
    (benchmark,) = open_benchmarks([f"folder:{pairs}"])
    assert (benchmark.name, len(benchmark.source)) == ("folder:pairs", 5)


def test_sets_of_one_name_are_called_by_their_place(pairs, tmp_path):
    other = tmp_path / "pairs"
    other.symlink_to(pairs)
    names = [benchmark.name for benchmark in open_benchmarks([f"folder:{pairs}", f"folder:{other}"])]
    assert names == [f"folder:{pairs}", f"folder:{other}"]


def test_images_without_masks_are_named(pairs, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    Image.fromarray(scene(0)[0]).save(tmp_path / "images" / "lonely.png")
    with pytest.raises(ValueError, match=r"lonely.png has no mask: expected .*masks/lonely.png"):
        open_benchmarks([f"folder:{tmp_path}"])


def test_other_layouts_and_sets_are_refused(pairs, tmp_path):
    with pytest.raises(ValueError, match="must hold the subfolders images and masks"):
        open_benchmarks([f"folder:{tmp_path}"])
    with pytest.raises(ValueError, match="given once"):
        open_benchmarks([f"folder:{pairs}"] * 2)
    with pytest.raises(ValueError, match="at least one set"):
        open_benchmarks([])
    with pytest.raises(ValueError, match="DIS-VD"):
        open_benchmarks([f"hqsam-val:{tmp_path}"])


def test_the_four_sets_of_hq_sam_by_name(tmp_path):
    for images, masks in (
        ("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt"),
        ("thin_object_detection/COIFT/images", "thin_object_detection/COIFT/masks"),
        ("thin_object_detection/HRSOD/images", "thin_object_detection/HRSOD/masks_max255"),
        ("thin_object_detection/ThinObject5K/images_test", "thin_object_detection/ThinObject5K/masks_test"),
    ):
        photo, (mask,) = scene(0)
        (tmp_path / images).mkdir(parents=True)
        (tmp_path / masks).mkdir(parents=True)
        Image.fromarray(photo).save(tmp_path / images / "a.jpg")
        Image.fromarray(mask).save(tmp_path / masks / "a.png")
    names = [benchmark.name for benchmark in open_benchmarks([f"hqsam-val:{tmp_path}"])]
    assert names == ["DIS-VD", "COIFT", "HRSOD", "ThinObject5K-TE"]
    assert [b.name for b in open_benchmarks([f"hqsam-val:{tmp_path}?set=hrsod"])] == ["HRSOD"]
    with pytest.raises(ValueError, match="set must be one of"):
        open_benchmarks([f"hqsam-val:{tmp_path}?set=other"])


def test_records_are_plain_json(tmp_path):
    records, _ = run(tmp_path, Recorder())
    assert [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()] == records
