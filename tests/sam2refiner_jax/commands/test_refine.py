"""The command `refine` from folders of masks and photos to folders of masks."""

import json

import numpy as np
import pytest
from PIL import Image
from small import small_model

from sam2refiner_jax import save_model
from sam2refiner_jax.commands.refine import join_objects, refine
from sam2refiner_jax.data.masks import numbers_picture, read_numbers
from sam2refiner_jax.image.coco import run_lengths
from sam2refiner_jax.image.rough_masks import Improved

Y, X = np.mgrid[:48, :64]
LEFT, RIGHT = (X - 16) ** 2 + (Y - 24) ** 2 < 120, (X > 40) & (Y > 20)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "plain"
    save_model(small_model(), path)
    return str(path)


@pytest.fixture
def folders(tmp_path):
    """A white mask and one of two numbered objects, and their photos."""
    rng = np.random.default_rng(0)
    for name in ("masks", "photos"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / "photos" / f"{name}.jpg")
    Image.fromarray(LEFT.astype(np.uint8) * 255).save(tmp_path / "masks" / "a.png")
    numbers_picture((LEFT * 1 + RIGHT * 3).astype(np.uint8)).save(tmp_path / "masks" / "b.png")
    return tmp_path


def test_masks_keep_their_numbers_and_what_is_not_believed_stays(folders, checkpoint, capsys):
    arguments = {"images": folders / "photos", "checkpoint": checkpoint}
    refine(folders / "masks", output=folders / "kept", keep_below=1.0, **arguments)
    np.testing.assert_array_equal(np.asarray(Image.open(folders / "kept" / "a.png")), LEFT * 255)
    np.testing.assert_array_equal(read_numbers(folders / "kept" / "b.png"), LEFT * 1 + RIGHT * 3)
    assert "0 masks made finer, 3 kept as they were" in capsys.readouterr().out

    refine(folders / "masks", output=folders / "fine", keep_below=0.0, form="coco", **arguments)
    document = json.loads((folders / "fine" / "refine.json").read_text())
    assert [(entry["file"], entry["object"]) for entry in document["masks"]] == [
        ("a.png", 255),
        ("b.png", 1),
        ("b.png", 3),
    ]
    for entry in document["masks"]:
        assert not entry["kept"]
        assert decoded(entry["segmentation"]).sum() == entry["area"]
    assert not list((folders / "fine").glob("*.png"))


def test_a_file_that_cannot_be_read_is_left_out_and_named(folders, checkpoint, capsys):
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(folders / "masks" / "a.png")
    with pytest.raises(ValueError, match="1 of 2 files could not be read"):
        refine(folders / "masks", folders / "photos", checkpoint, output=folders / "out")
    assert "a.png is empty" in capsys.readouterr().err
    assert json.loads((folders / "out" / "refine.json").read_text())["left_out"] == ["a.png"]
    assert [path.name for path in (folders / "out").glob("*.png")] == ["b.png"]


def test_nothing_of_the_users_is_replaced(folders, checkpoint):
    with pytest.raises(ValueError, match=r"a\.png is read here and must not be replaced"):
        refine(folders / "masks", folders / "photos", checkpoint, output=folders / "masks")
    (folders / "out").mkdir()
    (folders / "out" / "b.png").write_text("mine")
    with pytest.raises(ValueError, match=r"b\.png is no result of this program"):
        refine(folders / "masks", folders / "photos", checkpoint, output=folders / "out")
    (folders / "photos" / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"a photo for each mask, but none for b\.png"):
        refine(folders / "masks", folders / "photos", checkpoint, output=folders / "other")
    with pytest.raises(ValueError, match="nowhere must be a folder"):
        refine(folders / "masks", folders / "nowhere", checkpoint)
    with pytest.raises(ValueError, match="keep_below must be from 0 to 1, got 2"):
        refine(folders / "masks", folders / "photos", checkpoint, keep_below=2.0)


def test_of_two_finer_masks_the_surer_one_has_a_pixel_and_kept_ones_go_first():
    numbers = np.array([[1, 1, 2, 2, 3]])
    logits = {1: [2, 2, 2, -1, -1], 2: [-1, 3, 1, -1, 5], 3: [9, 9, 9, 9, 9]}
    found = {
        number: (numbers == number, Improved(np.array([row], np.float32), 0.9, 0.5), number == 3)
        for number, row in logits.items()
    }
    assert join_objects(numbers, found).tolist() == [[1, 2, 1, 0, 3]]


def decoded(segmentation):
    flat = np.concatenate([np.full(n, i % 2, bool) for i, n in enumerate(segmentation["counts"])])
    return flat.reshape(segmentation["size"], order="F")


def test_run_lengths_come_back():
    rng = np.random.default_rng(0)
    for mask in (LEFT, rng.random((7, 5)) < 0.5, np.ones((3, 4), bool), np.zeros((3, 4), bool)):
        np.testing.assert_array_equal(decoded(run_lengths(mask)), mask)
    # COCO counts down the columns, what is off first.
    assert run_lengths(np.array([[1, 0], [1, 1]], bool)) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
