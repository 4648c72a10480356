import json

import pytest
from PIL import Image

from sam2refiner_jax.data.check import check, recognise
from sam2refiner_jax.data.hqseg44k import TRAINING_SETS


def test_a_whole_folder(pair_folder, capsys):
    check(str(pair_folder))
    report = capsys.readouterr().out
    assert f"folder:{pair_folder}: 8 samples, 0 problems" in report
    assert "width in pixels: min 60, median 60, max 60" in report
    assert "height in pixels: min 40, median 43.5, max 47" in report
    assert "object, % of the image: min 9" in report


def test_everything_broken_is_listed(pair_folder, capsys):
    images, masks = pair_folder / "images", pair_folder / "masks"
    (masks / "0.png").unlink()
    Image.new("L", (60, 41)).save(masks / "1.png")
    Image.new("L", (60, 40), 255).save(masks / "2.png")
    (images / "3.jpg").write_bytes((images / "3.jpg").read_bytes()[:-40])
    (masks / "4.png").write_bytes(b"")
    for extra in range(7):
        Image.new("L", (60, 40), 255).save(masks / f"extra{extra}.png")
    with pytest.raises(SystemExit) as status:
        check(f"folder:{pair_folder}")
    assert status.value.code == 1
    report = capsys.readouterr().out
    assert "7 samples, 5 problems" in report
    assert "1 found without reading, 3 broken, 1 empty masks:" in report
    for problem in (
        f"- {images / '0.jpg'} has no mask: expected {masks / '0.png'}",
        f"- {masks / '1.png'} is empty",
        f"- {masks / '2.png'} must be as large as its image, {images / '2.jpg'}: it is 60 x 40, not 60 x 42",
        f"- {images / '3.jpg'} is not a readable picture: image file is truncated",
        f"- {masks / '4.png'} is not a readable picture: empty file",
    ):
        assert problem in report
    assert report.count("is left aside: there is no image of that name") == 5
    assert "and 2 more like these" in report
    assert "width in pixels: min 60, median 60, max 60" in report


def test_a_folder_of_nothing(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(SystemExit):
        check(str(tmp_path))
    assert "there is not one sample in folder:" in capsys.readouterr().out
    with pytest.raises(ValueError, match="data must be a folder or a source such as folder:DIR, got 'nowhere'"):
        check("nowhere")


def test_hqseg44k_by_set(hqseg44k, capsys):
    check(str(hqseg44k))
    report = capsys.readouterr().out
    assert f"hqseg44k:{hqseg44k}: 21 samples, 0 problems\n  dis: 3\n  thin: 3" in report
    assert f"hqsam-val:{hqseg44k}?set=dis: 3 samples, 0 problems" in report


def test_a_part_of_hqseg44k_says_what_is_missing(tmp_path, write_pair, capsys):
    part = TRAINING_SETS["ecssd"]
    write_pair(tmp_path / part.images / "a.jpg", tmp_path / part.masks / "a.png", seed=0)
    with pytest.raises(SystemExit):
        check(str(tmp_path))
    report = capsys.readouterr().out
    assert "1 samples, 6 problems" in report
    assert f"the set msra must be in the folder {tmp_path / TRAINING_SETS['msra'].images}" in report


@pytest.mark.parametrize(
    ("folders", "specs"),
    [
        (["images", "masks"], ["folder:DIR"]),
        (["images", "regions"], ["regions:DIR"]),
        (["images", "groundTruth"], ["regions:DIR"]),
        (["JPEGImages/480p/bear", "Annotations/480p/bear"], ["davis:DIR?resolution=480p"]),
        (["JPEGImages/bear", "Annotations/bear"], ["davis:DIR?resolution="]),
        (["DIS5K/DIS-TR/im"], ["hqseg44k:DIR"]),
        (["DIS5K/DIS-VD/im"], ["hqsam-val:DIR?set=dis"]),
        ([], ["folder:DIR"]),
    ],
)
def test_layouts(tmp_path, folders, specs):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert recognise(str(tmp_path)) == [spec.replace("DIR", str(tmp_path)) for spec in specs]


def test_layout_of_tfds(tmp_path):
    dataset = tmp_path / "hqseg44k" / "1.0.0"
    dataset.mkdir(parents=True)
    (dataset / "dataset_info.json").write_text(json.dumps({"splits": [{"name": "train"}, {"name": "validation_dis"}]}))
    assert recognise(str(tmp_path)) == [f"tfds:{dataset}?split=train", f"tfds:{dataset}?split=validation_dis"]
