"""Programs in files against the predictors: run by another process that has JAX and NumPy alone.

Those for one image or two objects are there compiled, and loaded; the others are compiled where they run.
"""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest
from small import refining_model, small_model
from videos import moving_frames

from sam2refiner_jax import SAM2ImagePredictor, SAM2VideoPredictor, save_model
from sam2refiner_jax.commands.cli import main
from sam2refiner_jax.convert.commands import export
from sam2refiner_jax.serving.export import export_programs

SIDE, FRAMES, BOX, CLICK = 64, 3, [10.0, 14.0, 30.0, 50.0], [40.0, 20.0]

SCRIPT = """
import importlib.util, sys
import numpy as np

folder, inputs, outputs = sys.argv[1:]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
spec = importlib.util.spec_from_file_location("runner", folder + "/runner.py")
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
programs = runner.Programs(folder)
given = np.load(inputs)
frames, boxes = given["frames"], given["boxes"]
results = {}

features = programs.encode(images=frames[:1])
click = programs.prompts(given["click"][None, None], [[1]])
results |= {"decoded_" + name: x for name, x in programs.decode(**features, **click).items()}
results |= {"refined_" + name: x for name, x in programs.refine(**features, **click, multimask=np.bool_(True)).items()}

corners, kinds = boxes.reshape(2, 2, 2), [[2, 3], [2, 3]]
both = np.zeros(2, np.int32)
bank = programs.empty("start", 2)
found = programs.start(**features, **bank, **programs.prompts(corners, kinds), slot=both, frame=both)
masks = [found["masks"]]
first = programs.prompts(corners, kinds, ended=False)
for index in range(1, len(frames)):
    features = programs.encode(images=frames[index : index + 1])
    bank = {name: x for name, x in found.items() if name.startswith("memory")}
    found = programs.track(**features, **bank, **first, frame=both + index, num_frames=both + len(frames),
                           reverse=both > 0, active=both == 0)
    masks.append(found["masks"])
assert {name for name, loaded in programs._loaded if loaded} == {"encode", "start", "track"}, programs._loaded
assert {name for name, loaded in programs._loaded if not loaded} == {"decode", "refine"}, programs._loaded
results |= {"tracked": np.stack(masks), "several": programs.encode(images=frames)["features.embedding"]}
assert not [name for name in sys.modules if name.split(".")[0] in ("sam2refiner_jax", "flax", "torch")]
np.savez(outputs, **results)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As the command writes it."""
    place = tmp_path_factory.mktemp("programs")
    save_model(refining_model(), place / "model")
    compiled = ["--compile-for", "here", "--objects", "2"]
    main(["export", str(place / "model"), str(place / "exported"), "--format", "stablehlo", *compiled])
    return place / "exported"


@pytest.fixture(scope="module")
def frames():
    return np.stack(moving_frames(FRAMES, SIDE, SIDE))


@pytest.fixture(scope="module")
def results(folder, frames, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    boxes = np.array([BOX, [30, 5, 60, 40]], np.float32)
    images = (frames / 255).astype(np.float32)
    np.savez(place / "in.npz", frames=images, boxes=boxes, click=np.array(CLICK, np.float32))
    command = [sys.executable, "-c", SCRIPT, folder, place / "in.npz", place / "out.npz"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(place / "out.npz"))


def test_masks_of_a_photo_are_the_predictors(results, frames):
    predictor = SAM2ImagePredictor(refining_model())
    predictor.set_image(frames[0])
    asked = {"point_coords": [CLICK], "point_labels": [1]}
    for kind, multimask in (("multi", True), ("single", False)):
        _, ious, low_res = predictor.predict(**asked, multimask_output=multimask, refine=False)
        found = results[f"decoded_{kind}"][0].clip(-32, 32)
        np.testing.assert_allclose(found, low_res, atol=1e-3)
        np.testing.assert_allclose(results[f"decoded_{kind}_iou"][0], ious, atol=1e-5)
    refined, ious, _ = predictor.predict(**asked, return_logits=True)
    np.testing.assert_allclose(results["refined_masks"][0], refined, atol=1e-3)
    np.testing.assert_allclose(results["refined_iou"][0], ious, atol=1e-5)


def test_tracked_masks_are_the_predictors(results, frames):
    predictor = SAM2VideoPredictor(refining_model())
    state = predictor.init_state(list(frames))
    for number, box in enumerate((BOX, [30, 5, 60, 40])):
        predictor.add_new_points_or_box(state, 0, number, box=np.array(box, np.float32))
    shown = 0
    for index, _, logits in predictor.propagate_in_video(state):
        found = results["tracked"][index]
        assert ((found > 0) == (logits[:, 0] > 0)).mean() >= 0.999
        shown += (logits > 0).sum()
    assert 0 < shown < FRAMES * 2 * SIDE**2


def test_any_number_of_images_is_taken(results, frames):
    predictor = SAM2ImagePredictor(refining_model())
    predictor.set_image_batch(list(frames))
    expected = predictor.get_image_embedding().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(results["several"], expected, atol=1e-3)


def test_the_manifest_says_what_goes_in_and_out(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert {*manifest["programs"]} == {"encode", "decode", "refine", "start", "start_from_mask", "track"}
    encode, track = manifest["programs"]["encode"], manifest["programs"]["track"]
    assert encode["inputs"]["images"] == [["images", SIDE, SIDE, 3], "float32"]
    assert encode["outputs"]["features.embedding"] == [["images", 4, 4, 256], "float32"]
    state = {name: kind for name, kind in track["inputs"].items() if name.startswith("memory")}
    assert state.items() <= track["outputs"].items()  # the bank comes out as it went in
    assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".jax", ".compiled", ".json", ".npz", ".py"}
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "compiler": "cpu"}
    assert manifest["compiled"] == {"device": "cpu", **versions, "images": 1, "objects": 2}
    assert len(Path(folder / "runner.py").read_text().splitlines()) < 90


def test_what_cannot_be_meant_is_refused(tmp_path):
    with pytest.raises(ValueError, match="platforms must be some of cpu, cuda, tpu, got rocm"):
        export_programs(small_model(), tmp_path / "out", platforms=["rocm"])
    with pytest.raises(ValueError, match="clicks must be at least 4"):
        export_programs(small_model(), tmp_path / "out", clicks=2)
    with pytest.raises(ValueError, match="topology must start with one of v5e, v5p, v6e, got 'h100'"):
        export_programs(small_model(), tmp_path / "out", compile_for="h100")
    with pytest.raises(ValueError, match="images and objects must be at least 1, got 1 and 0"):
        export_programs(small_model(), tmp_path / "out", compile_for="here", objects=0)
    with pytest.raises(ValueError, match="compile_for and dtype are of programs: format must be stablehlo"):
        export(tmp_path / "model", tmp_path / "out", compile_for="here")
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError):
        export_programs(small_model(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
