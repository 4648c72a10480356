"""The commands `segment` and `demo`, as a user runs them."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
from PIL import Image
from small import small_model

from sam2refiner_jax import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, load_model, save_model
from sam2refiner_jax.commands.cli import main
from sam2refiner_jax.commands.demo import PROMPTS
from sam2refiner_jax.image.overlay import PALETTE, draw_overlay
from sam2refiner_jax.image.preprocess import read_photo
from sam2refiner_jax.provenance import Provenance


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "small"
    save_model(small_model(), directory)
    return directory


@pytest.fixture
def rocket(tmp_path):
    """The photo of the demo."""
    path = tmp_path / "rocket.png"
    Image.fromarray(skimage.data.rocket()).save(path)
    return path


def predictor_on(model, photo) -> SAM2ImagePredictor:
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(photo)
    return predictor


def read_mask(path) -> np.ndarray:
    mask = np.asarray(Image.open(path))
    assert set(np.unique(mask)) == {0, 255}  # neither empty nor full, so that something is compared
    return mask


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (60, 90)), ("b.png", (80, 50))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not a photo")
    return folder


def run(*arguments):
    main([str(a) for a in arguments])


def fails(capsys, *arguments) -> str:
    """The one line that the command prints when it exits with status 2."""
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(lines)
    return lines[-1]


def test_one_photo_from_clicks(checkpoint, rocket, tmp_path):
    """The files say what the predictor says."""
    out = tmp_path / "out"
    clicks = [(*place, label) for place, label in zip(*PROMPTS["clicks"].values(), strict=True)]
    points = [number for click in clicks for number in click]
    run("segment", rocket, "--checkpoint", checkpoint, "--output", out, "--points", *points)
    assert sorted(p.name for p in out.iterdir()) == ["rocket.json", "rocket_object0.png", "rocket_overlay.png"]

    predictor = predictor_on(small_model(), read_photo(rocket))
    masks, ious, _ = predictor.predict(**PROMPTS["clicks"], multimask_output=False)
    np.testing.assert_array_equal(read_mask(out / "rocket_object0.png"), masks[0] * 255)
    document = json.loads((out / "rocket.json").read_text())
    assert (document["height"], document["width"]) == (427, 640)
    entry = document["objects"][0]["masks"][0]
    assert entry["area"] == masks[0].sum()
    assert entry["predicted_iou"] == pytest.approx(float(ious[0]), abs=1e-6)

    assert Image.open(out / "rocket_overlay.png").size == (640, 427)


def test_overlay_tints_the_mask_and_leaves_the_rest():
    photo = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[20:40, 30:60] = True
    overlay = draw_overlay(
        photo,
        mask[None],
        points=np.array([[45.0, 30.0]], np.float32),
        labels=np.array([1]),
        boxes=np.array([[28.0, 18.0, 62.0, 42.0]], np.float32),
    )
    np.testing.assert_array_equal(overlay[:15], photo[:15])
    np.testing.assert_array_equal(overlay[:, 70:], photo[:, 70:])
    np.testing.assert_array_equal(overlay[22, 32], (photo[22, 32] * 0.5 + PALETTE[0] * 0.5).astype(np.uint8))
    np.testing.assert_array_equal(overlay[30, 45], [40, 220, 80])
    np.testing.assert_array_equal(overlay[18, 40], PALETTE[0])


def test_boxes_are_objects_and_multimask_gives_three(checkpoint, rocket, tmp_path):
    """Three masks of each box, as the predictor gives them."""
    out = tmp_path / "out"
    boxes = ((296, 124, 346, 408), (165, 120, 208, 380))
    arguments = ("--boxes", *boxes[0], *boxes[1], "--multimask")
    run("segment", rocket, "--checkpoint", checkpoint, "--output", out, *arguments)
    names = {path.name for path in out.glob("*_mask?.png")}
    assert names == {f"rocket_object{i}_mask{k}.png" for i in (0, 1) for k in range(3)}
    objects = json.loads((out / "rocket.json").read_text())["objects"]
    masks, ious, _ = predictor_on(small_model(), read_photo(rocket)).predict(box=np.array(boxes))
    for i, found in enumerate(objects):
        for k, entry in enumerate(found["masks"]):
            assert entry["file"] == f"rocket_object{i}_mask{k}.png"
            assert entry["predicted_iou"] == pytest.approx(float(ious[i, k]), abs=1e-6)
            np.testing.assert_array_equal(read_mask(out / entry["file"]), masks[i, k] * 255)


def test_a_mask_is_a_prompt(checkpoint, photos, tmp_path):
    hard = np.zeros((60, 90), np.uint8)
    hard[20:40, 30:60] = 255
    Image.fromarray(hard).save(tmp_path / "prompt.png")
    results = []
    for prompt in (("--mask", tmp_path / "prompt.png"), ("--points", 45, 30, 1)):
        out = tmp_path / str(len(results))
        run("segment", photos / "a.jpg", "--checkpoint", checkpoint, "--output", out, *prompt)
        results.append(json.loads((out / "a.json").read_text())["objects"][0]["masks"][0]["predicted_iou"])
    assert results[0] != results[1]


def masked_areas(out):
    return {path.stem: json.loads(path.read_text())["objects"][0]["masks"][0] for path in out.glob("*.json")}


def test_masks_of_a_prompt_file_and_of_a_folder_are_the_same_prompts(checkpoint, photos, tmp_path):
    """In three forms: black and white, 0 and 1, and in the alpha of a white picture; beside a hidden file."""
    hard = {name: np.zeros(size, np.uint8) for name, size in (("a", (60, 90)), ("b", (80, 50)))}
    for mask in hard.values():
        mask[20:40, 20:45] = 255
    shown = [lambda m: m, lambda m: m // 255, lambda m: np.dstack([np.full((*m.shape, 3), 255, np.uint8), m])]
    (photos / "._a.jpg").write_bytes(b"left behind by a file manager")
    results = []
    for number, show in enumerate(shown):
        folder = tmp_path / f"masks{number}"
        folder.mkdir()
        for name, mask in hard.items():
            Image.fromarray(show(mask)).save(folder / f"{name}.png")
        out = tmp_path / f"folder{number}"
        run("segment", photos, "--checkpoint", checkpoint, "--output", out, "--mask", folder)
        results.append(masked_areas(out))
    prompts = folder / "prompts.json"
    entries = {f"{name}.{ending}": {"mask": f"{name}.png"} for name, ending in (("a", "jpg"), ("b", "png"))}
    prompts.write_bytes(b"\xef\xbb\xbf" + json.dumps(entries).encode())
    run("segment", photos, "--checkpoint", checkpoint, "--output", tmp_path / "file", "--prompts", prompts)
    results.append(masked_areas(tmp_path / "file"))
    assert {*results[0]} == {"a", "b"}
    assert all(result == results[0] for result in results)


def test_everything_in_a_folder_of_photos(checkpoint, photos, tmp_path):
    """As the generator gives it, in files that pycocotools reads; a second run replaces those of the first."""
    from pycocotools.coco import COCO

    arguments = ("segment", photos, "--checkpoint", checkpoint, "--everything", "--output", tmp_path / "out")
    options = ("--grid.pred-iou-thresh", 0, "--grid.stability-score-thresh", 0, "--grid.points-per-side")
    run(*arguments, *options, 1)
    run(*arguments, *options, 2)
    thresholds = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    generator = SAM2AutomaticMaskGenerator(small_model(), **thresholds)
    for path in (photos / "a.jpg", photos / "b.png"):
        expected = generator.generate(read_photo(path))
        coco = COCO(str(tmp_path / "out" / f"{path.stem}.json"))
        (image,) = coco.loadImgs(coco.getImgIds())
        assert image["file_name"] == path.name
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(annotations) == len(expected) > 0
        for annotation, mask in zip(annotations, expected, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask["segmentation"])
            assert (annotation["area"], annotation["bbox"]) == (mask["area"], mask["bbox"])
            assert annotation["predicted_iou"] == mask["predicted_iou"]
        picture = np.asarray(Image.open(tmp_path / "out" / f"{path.stem}_overlay.png"))
        assert (picture != read_photo(path)).any(axis=-1)[expected[0]["segmentation"]].mean() > 0.9


def test_results_beside_the_photos_are_replaced_and_no_photos(checkpoint, photos, capsys):
    arguments = ("segment", photos, "--checkpoint", checkpoint, "--output", photos, "--points", 30, 20, 1)
    run(*arguments, "--multimask")
    assert (photos / "a_object0_mask2.png").exists()
    run(*arguments)
    results = {f"{name}{ending}" for name in "ab" for ending in (".json", "_object0.png", "_overlay.png")}
    assert {path.name for path in photos.iterdir()} == {"a.jpg", "b.png", "notes.txt"} | results


def test_a_folder_with_a_prompt_file_goes_past_broken_photos(checkpoint, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"")
    prompts = tmp_path / "prompts.json"
    prompts.write_text(
        json.dumps(
            {
                "a.jpg": {"points": [[30, 20, 1]]},
                "b.png": {"boxes": [[5, 5, 30, 40]]},
                "broken.jpg": {"points": [[1, 1, 1]]},
            }
        )
    )
    out = tmp_path / "out"
    message = fails(capsys, "segment", photos, "--checkpoint", checkpoint, "--output", out, "--prompts", prompts)
    assert "1 of 3 photos could not be segmented" in message
    assert sorted(p.name for p in out.glob("*.json")) == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos/a.jpg",), "a.jpg has no prompt"),
        (("photos/a.jpg", "--everything", "--points", 1, 1, 1), "everything takes no points, boxes, mask or prompts"),
        (("photos/absent.jpg", "--points", 1, 1, 1), "absent.jpg does not exist"),
        (("empty", "--points", 1, 1, 1), "holds no photo"),
        (("photos/notes.txt", "--points", 1, 1, 1), "notes.txt is not a readable picture"),
        (("photos/a.jpg", "--points", 500, 1, 1), "point_coords must lie in the photo"),
        (("photos/a.jpg", "--points", 5, 1, 4), "point_labels must be 1 (on the object), 0 (off it)"),
        (("photos/a.jpg", "--points", "nan", 1, 1), "point_coords must be finite"),
        (("photos/a.jpg", "--boxes", 5, 5, 5, 9), "box must be x0, y0, x1, y1"),
        (("photos/a.jpg", "--mask", "photos/notes.txt"), "notes.txt is not a readable picture"),
        (("photos/a.jpg", "--mask", "photos/b.png"), "b.png is 50 x 80 pixels, the photo 90 x 60"),
        (("photos/a.jpg", "--points", 5, 5, 1, "--boxes", 1, 1, 9, 9, 2, 2, 9, 9), "cannot be mixed with 2 boxes"),
        (("photos/a.jpg", "--prompts", "bad.json"), "the prompts of a.jpg must be"),
        (("photos/a.jpg", "--prompts", "photos/notes.txt"), "notes.txt is not JSON"),
        (("photos/a.jpg", "--prompts", "half.json"), "the prompts of a.jpg must be points [x, y, label], label 0 or 1"),
        (("photos/a.jpg", "--prompts", "other.json"), "other.json has prompts for a.jpeg, notes.txt, but"),
        (
            ("photos", "--prompts", "other.json"),
            "other.json has prompts for a.jpeg, notes.txt, but photos holds no such",
        ),
        (
            ("photos/a.jpg", "--mask", "black.png"),
            "black.png is empty: no pixel of it belongs to an object; the largest",
        ),
    ],
)
def test_errors_of_use(checkpoint, photos, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    # It takes seconds.
    monkeypatch.setattr("sam2refiner_jax.commands.segment.load_model", lambda *_, **__: small_model())
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"a.jpg": {"points": [[1, 2]]}}')
    (tmp_path / "half.json").write_text('{"a.jpg": {"points": [[1, 2, 0.5]]}}')
    points = {"points": [[1, 1, 1]]}
    names = ("a.jpg", "a.jpeg", "b.png", "notes.txt")
    (tmp_path / "other.json").write_text(json.dumps(dict.fromkeys(names, points)))
    Image.new("L", (90, 60)).save(tmp_path / "black.png")
    assert message in fails(capsys, "segment", *arguments, "--checkpoint", checkpoint)
    assert not list(tmp_path.glob("out/*"))


def test_the_demo_works_without_a_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the demo went to the network"))
    run("demo", "--output", tmp_path)
    picture = tmp_path / "demo.png"
    out = capsys.readouterr().out
    assert str(picture) in out
    assert Image.open(picture).size == (2 * 640 + 6, 2 * (427 + 28 + 6) + 28 + 5 * 86)
    clip = re.search(r"clip: (.*), mean IoU (.*)", out)
    assert clip is not None
    assert Path(clip[1]) == tmp_path / "clip.mp4"
    assert float(clip[2]) > 0.6
    names = {path.name for path in tmp_path.glob("*_*.png")}
    assert names == {"clicks_coarse.png", "clicks_refined.png", "box_coarse.png", "box_refined.png"}
    predictor = predictor_on(load_model("nano"), skimage.data.rocket())
    for name, prompts in PROMPTS.items():
        for mode, refine in (("coarse", False), ("refined", True)):
            masks = predictor.predict(**prompts, multimask_output=False, refine=refine)[0]
            np.testing.assert_array_equal(read_mask(tmp_path / f"{name}_{mode}.png"), masks[0] * 255)


def test_the_demo_of_a_model_without_refiner(checkpoint, tmp_path):
    run("demo", "--checkpoint", checkpoint, "--output", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"demo.png", "clicks_coarse.png", "box_coarse.png", "clip.mp4"}
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert len(list(container.decode(video=0))) == 24


def test_the_demo_of_a_model_that_cannot_track(tmp_path, capsys):
    model = small_model().with_refiner(None)  # a copy
    model.provenance = Provenance(untrained=("memory_attention",))
    save_model(model, tmp_path / "model")
    run("demo", "--checkpoint", tmp_path / "model", "--output", tmp_path / "out")
    assert not (tmp_path / "out" / "clip.mp4").exists()
    assert "clip: none" in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    run("--help")
    output = capsys.readouterr().out
    for command in ("convert", "demo", "export", "segment"):
        assert f"\n  {command} " in output
