"""`track --exemplar` and `segment --exemplar`: what they write equals what the predictor says."""

import json

import numpy as np
import pytest
import tyro
from PIL import Image
from small import deep_model, wavering
from videos import disk, moving_frames, write_jpegs

from sam2refiner_jax import SAM2VideoPredictor, save_model
from sam2refiner_jax.commands.segment import segment
from sam2refiner_jax.commands.track import track
from sam2refiner_jax.commands.track_results import number_pixels
from sam2refiner_jax.data.masks import davis_palette
from sam2refiner_jax.image.preprocess import read_photo

HEIGHT, WIDTH = 90, 120


@pytest.fixture(scope="module")
def model():
    return wavering(deep_model())


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A checkpoint, four frames, and two pictures beside them of which one shows a second object."""
    place = tmp_path_factory.mktemp("exemplars")
    save_model(model, place / "checkpoint")
    frames = moving_frames(6, HEIGHT, WIDTH)
    write_jpegs(place / "clip", frames[:4])
    for i, name in ((4, "a"), (5, "b")):
        Image.fromarray(frames[i]).save(place / f"{name}.png")
        numbered = disk(i, HEIGHT, WIDTH).astype(np.uint8)
        if name == "b":
            numbered[5:30, 80:110] = 3
        picture = Image.fromarray(numbered, mode="P")
        picture.putpalette(davis_palette().tobytes())
        picture.save(place / f"{name}_mask.png")
    return place


@pytest.fixture(scope="module")
def exemplars(folder, model):
    """What the predictor makes of the pictures."""
    predictor, found = SAM2VideoPredictor(model), {}
    for name in "ab":
        picture, mask = read_photo(folder / f"{name}.png"), np.asarray(Image.open(folder / f"{name}_mask.png"))
        for number in np.unique(mask[mask > 0]):
            found.setdefault(int(number), []).append(predictor.make_exemplar(picture, mask == number))
    return found


def run(command, folder, source, output, *more):
    given = [a for name in "ab" for a in ("--exemplar", folder / f"{name}.png", folder / f"{name}_mask.png")]
    every = (source, "--checkpoint", folder / "checkpoint", "--output", output, *given, *more)
    tyro.cli(command, args=[str(a) for a in every])


def test_track(folder, exemplars, model, tmp_path):
    run(track, folder, folder / "clip", tmp_path, "--no-overlay")
    predictor = SAM2VideoPredictor(model)
    state = predictor.init_state(folder / "clip")
    assert {number: len(several) for number, several in exemplars.items()} == {1: 2, 3: 1}
    predictor.add_exemplars(state, exemplars)
    for frame, numbers, logits in predictor.propagate_in_video(state):
        written = np.asarray(Image.open(tmp_path / "clip" / f"{frame:05d}.png"))
        np.testing.assert_array_equal(written, number_pixels(logits[:, 0], numbers))
    assert frame == 3
    made_with = json.loads((tmp_path / "clip" / "track.json").read_text())["made_with"]
    assert made_with["exemplar"][1] == [str(folder / "b.png"), str(folder / "b_mask.png")]


def test_segment(folder, exemplars, model, tmp_path):
    """A folder of photos, and on with it."""
    run(segment, folder, folder / "clip", tmp_path)
    predictor = SAM2VideoPredictor(model)
    for i in range(4):
        found = predictor.find_in_photo(read_photo(folder / "clip" / f"{i:05d}.jpg"), exemplars)
        document = json.loads((tmp_path / f"{i:05d}.json").read_text())
        assert [entry["number"] for entry in document["objects"]] == found.obj_ids == [1, 3]
        for k, entry in enumerate(document["objects"]):
            written = np.asarray(Image.open(tmp_path / entry["masks"][0]["file"]))
            np.testing.assert_array_equal(written > 0, found.masks[k] > 0)
            assert entry["masks"][0]["predicted_iou"] == pytest.approx(float(found.predicted_iou[k]), abs=1e-5)
            assert entry["object_score"] == pytest.approx(1 / (1 + np.exp(-found.object_score_logits[k])), abs=1e-5)
    assert (tmp_path / "00003_overlay.png").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "00002.json").unlink()
    run(segment, folder, folder / "clip", tmp_path, "--resume")
    after = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {path.stem[:5] for path in after if after[path] != before.get(path)} == {"00002"}


def test_bad_exemplars(folder, tmp_path):
    for more in (("--points", 1, 1, 1), ("--everything",), ("--batch", 2), ("--fit", "pad"), ("--multimask",)):
        with pytest.raises(ValueError, match="exemplar takes no points"):
            run(segment, folder, folder / "clip", tmp_path / "out", *more)
    with pytest.raises(ValueError, match="frame is for points, boxes or a mask on it, of which there are none"):
        run(track, folder, folder / "clip", tmp_path / "out", "--frame", 2)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "empty.png")
    Image.fromarray(np.ones((9, WIDTH), np.uint8)).save(tmp_path / "low.png")
    for picture, mask, message in (
        ("a.png", tmp_path / "empty.png", r"empty\.png is empty"),
        ("a.png", tmp_path / "low.png", rf"low\.png is {WIDTH} x 9 pixels, the exemplar {WIDTH} x {HEIGHT}"),
        ("none.png", tmp_path / "low.png", r"none\.png"),
    ):
        for command in (segment, track):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                run(command, folder, folder / "clip", tmp_path / "out", "--exemplar", folder / picture, mask)
    assert not (tmp_path / "out").exists()
