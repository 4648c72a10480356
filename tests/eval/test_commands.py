"""The commands `eval image`, `eval video` and `eval ablation` from their arguments to their tables."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro
from flax import nnx
from PIL import Image
from scenes import write_pairs
from small import RESIDUAL, SMALL, hq_model, refining_model, small_model

from sam2refiner_jax import save_model, save_refiner
from sam2refiner_jax.commands import cli
from sam2refiner_jax.eval.ablation import MODULES, name_of
from sam2refiner_jax.eval.commands import ablation, image, video
from sam2refiner_jax.refiners import build_refiner
from sam2refiner_jax.video.memory_bank import MemoryBank, ObjectFrames
from sam2refiner_jax.video.policies import MEMORY_POLICIES, Candidates, Found


def run(command, *arguments):
    tyro.cli(command, args=[str(a) for a in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "plain"
    save_model(small_model(), path)
    return path


def test_image_of_baselines(pairs, tmp_path, capsys):
    run(image, f"folder:{pairs}", "--model", "box", "--output", tmp_path / "box", "--prompts", "box", "clicks")
    assert "| box, mask |" in capsys.readouterr().out
    run(image, f"folder:{pairs}", "--model", "grabcut", "--output", tmp_path / "grabcut")
    assert "| grabcut, mask |" in capsys.readouterr().out


def test_davis_frames_are_averaged_by_clip(davis, tmp_path):
    run(image, f"davis:{davis}?every=3", "--model", "box", "--output", tmp_path)
    records = json.loads((tmp_path / "results.json").read_text())["items"]
    assert {record["group"] for record in records} == {"one", "two", "white"}
    means = [
        np.mean([r["results"][0]["iou"] for r in records if r["group"] == clip]) for clip in ("one", "two", "white")
    ]
    summary = json.loads((tmp_path / "results.json").read_text())["summary"]
    (found,) = {name: e for name, e in summary["box"]["mask"].items() if name != "average"}.values()
    assert found["iou"] == pytest.approx(np.mean(means))


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (
            image,
            ("--model", "box", "--refiner", "x"),
            "a refiner, an image_size and a fit need the model sam2refiner, got box",
        ),
        (
            image,
            ("--model", "box", "--refiners", "x"),
            "refiners need the model sam2refiner and no .*, got box",
        ),
        (image, ("--model", "box", "--prompts", "boxes"), "a prompt must be"),
        (image, ("--model", "sam2", "--checkpoint", "nothing.pt"), "official .pt on disk, got nothing.pt"),
        (video, ("--model", "grabcut", "--refiner", "x"), "a refiner needs the model sam2refiner, got grabcut"),
        (video, ("--model", "sam2", "--checkpoint", "nothing.pt"), "official .pt on disk, got nothing.pt"),
        (video, ("--model", "box", "--clips", "a", "--clip-list", "b"), "either clips or a clip_list"),
        (video, ("--memory", "best"), "memory must be one of official, .*; got 'best'"),
        (video, ("--model", "box", "--memory", "tree"), "a memory needs the model sam2refiner"),
    ],
)
def test_arguments_that_cannot_be_meant(command, arguments, message, pairs, davis, tmp_path):
    data = f"folder:{pairs}" if command is image else davis
    with pytest.raises(ValueError, match=message):
        run(command, data, *arguments, "--output", tmp_path / "out")


def test_video_of_a_model(davis, checkpoint, tmp_path, capsys):
    run(video, davis, "--checkpoint", checkpoint, "--output", tmp_path, "--clips", "one", "--prompt", "box")
    assert "| plain |" in capsys.readouterr().out
    assert len(list((tmp_path / "masks" / "one").glob("*.png"))) == 6
    with pytest.raises(ValueError, match="prompt was 'box' and is 'mask'"):
        run(video, davis, "--checkpoint", checkpoint, "--output", tmp_path, "--clips", "one")


@pytest.fixture
def policy_of_the_documents(tmp_path, monkeypatch):
    """The file that docs/videos.md tells to write."""
    text = (Path(__file__).parents[2] / "docs" / "videos.md").read_text()
    (program,) = (part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "@register" in part)
    (tmp_path / "seen.py").write_text(program)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "seen.py"
    MEMORY_POLICIES.pop("seen", None)
    sys.modules.pop("seen", None)


def test_a_memory_policy_of_ones_own(policy_of_the_documents, davis, checkpoint, tmp_path, capsys):
    common = ["--import", policy_of_the_documents, "--memory", "seen", "--checkpoint", checkpoint]
    clip = davis / "JPEGImages" / "480p" / "one"
    cli.main([str(a) for a in ("track", clip, *common, "--output", tmp_path / "tracked", "--points", 20, 30, 1)])
    assert len(list((tmp_path / "tracked" / "one").glob("*.png"))) == 6
    sys.modules.pop("seen")
    MEMORY_POLICIES.pop("seen")
    cli.main([str(a) for a in ("eval", "video", davis, *common, "--output", tmp_path / "out", "--clips", "one")])
    assert "| plain, memory seen |" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["memory"] == "Seen(threshold=0.0)"
    with pytest.raises(ValueError, match=r"memory was 'Seen\(threshold=0.0\)' and is None"):
        run(video, davis, "--checkpoint", checkpoint, "--output", tmp_path / "out", "--clips", "one")
    # It does what it says.
    policy = MEMORY_POLICIES["seen"]()
    state = dict.fromkeys(("image", "frame"), np.zeros(2, np.int32)) | {"num_frames": np.full(2, 9)}
    bank = MemoryBank.empty(SMALL, 2, policy=policy)
    found = Found(
        Candidates(np.zeros((2, 3, 16, 16), np.float32), np.zeros((2, 3), np.float32), np.float32([0.5, -0.5])),
        np.zeros(2, np.int32),
    )
    now = bank.situation(ObjectFrames(**state, reverse=np.zeros(2, bool)))
    assert policy.remember(now, found).slots.any(axis=1).tolist() == [True, False]


def test_video_of_baselines_and_of_masks_made_elsewhere(davis, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("one\nwhite\n")
    chosen = ("--clip-list", tmp_path / "list.txt")
    run(video, davis, "--model", "box", "--output", tmp_path / "box", *chosen)
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("| box |"))
    run(video, davis, "--predictions", tmp_path / "box" / "masks", "--output", tmp_path / "again", *chosen)
    assert row.replace("| box |", "| masks |") in capsys.readouterr().out
    with pytest.raises(ValueError, match="clip two has no prediction"):
        run(video, davis, "--predictions", tmp_path / "box" / "masks", "--output", tmp_path / "again")


IMAGE_FILES = ["results.json", "items.csv", "table.md", "points.png", "gains.png", "gallery.png", "records.jsonl"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("image", name) for name in IMAGE_FILES),
        *(("video", name) for name in ("results.json", "objects.csv", "table.md", "masks", "records.jsonl")),
        *(("predictions", name) for name in ("results.json", "objects.csv", "table.md")),
        *(("ablation", name) for name in ("results.json", "table.md")),
    ],
)
def test_files_of_no_run_are_not_replaced(command, name, pairs, davis, checkpoint, tmp_path):
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    (tmp_path / "refiners" / "LA").mkdir(parents=True)
    arguments = {
        "image": (image, f"folder:{pairs}", "--model", "box"),
        "video": (video, davis, "--model", "box"),
        "predictions": (video, davis, "--predictions", davis / "Annotations" / "480p"),
        "ablation": (ablation, f"folder:{pairs}", "--refiners", tmp_path / "refiners", "--checkpoint", checkpoint),
    }
    with pytest.raises(ValueError, match=rf"{name} is of no run there and will not be replaced"):
        run(*arguments[command], "--output", tmp_path / "out")
    assert theirs.read_text() == "theirs"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_settings_of_another_program_are_not_replaced(davis, tmp_path):
    for content in ('["theirs"]', '{"editor.fontSize": 12}', "no JSON"):
        (tmp_path / "settings.json").write_text(content)
        with pytest.raises(ValueError, match=r"settings\.json is damaged|holds a run with other settings"):
            run(video, davis, "--model", "box", "--output", tmp_path)
        assert (tmp_path / "settings.json").read_text() == content


def test_unseen_clips(davis, tmp_path, capsys):
    (tmp_path / "unseen.txt").write_text("two\n")
    run(video, davis, "--model", "box", "--output", tmp_path / "out", "--unseen", tmp_path / "unseen.txt")
    assert "| model | J&F | J seen | F seen | J unseen | F unseen |" in capsys.readouterr().out


def test_ablation(pairs, checkpoint, tmp_path, capsys):
    for combination in ((True, False, False), (True, False, True)):
        config = dataclasses.replace(RESIDUAL, **dict(zip(MODULES.values(), combination, strict=True)))
        refiner = build_refiner(config, small_model().config, rngs=nnx.Rngs(0))
        save_refiner(small_model().with_refiner(refiner), tmp_path / "refiners" / name_of(combination))
    arguments = ("--checkpoint", checkpoint, "--output", tmp_path / "out", "--limit", 1)
    run(ablation, f"folder:{pairs}", "--refiners", tmp_path / "refiners", *arguments)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    plain, fine = (rows[i].split("|")[4] for i in (0, 1))
    assert "/" in plain
    assert rows[0] == f"|  |  |  |{plain}| 78.5 / 71.5 |"
    assert rows[1] == f"| yes |  |  |{fine}| 85.0 / 67.4 |"
    assert rows[2] == "|  | yes |  | - | - |"
    assert rows[5] == f"| yes |  | yes |{fine}| 92.7 / 88.3 |"  # a fresh refiner adds nothing to the upsampled mask
    assert len(rows) == 8
    with pytest.raises(ValueError, match="image_size was 64 and is 96"):
        run(ablation, f"folder:{pairs}", "--refiners", tmp_path / "refiners", *arguments, "--image-size", 96)
    (tmp_path / "refiners" / "LA").rename(tmp_path / "refiners" / "PR")
    with pytest.raises(ValueError, match=r"PR must be a refiner with PR only, it has LA"):
        run(ablation, f"folder:{pairs}", "--refiners", tmp_path / "refiners", *arguments)
    with pytest.raises(ValueError, match=r"named LA, PR, MR, LA.PR, .*; found out, refiners"):
        run(ablation, f"folder:{pairs}", "--refiners", tmp_path, *arguments)


@pytest.mark.slow
def test_refiners_side_by_side(pairs, checkpoint, tmp_path, capsys):
    """The plain model's row is that of a run without a refiner; each refiner's that of a run with it alone."""
    for kind, model in (("hq", hq_model()), ("residual", refining_model())):
        save_refiner(model, tmp_path / kind)
    arguments = (f"folder:{pairs}", "--checkpoint", checkpoint, "--limit", 2)
    refiners = ("--refiners", tmp_path / "hq", tmp_path / "residual")
    run(image, *arguments, *refiners, "--output", tmp_path / "out")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| plain, ")]
    assert [row.split("|")[1].strip() for row in rows] == ["plain, SAM2", "plain, hq", "plain, residual"]
    prompts = ("--prompts", "box", f"masks:{pairs / 'masks'}")
    run(image, *arguments, "--refiner", tmp_path / "hq", "--output", tmp_path / "one", *prompts)
    lines = capsys.readouterr().out.splitlines()
    alone = [line for line in lines if line.startswith("| plain + hq, ")]
    assert [row.split("|")[2] for row in alone[:2]] == [row.split("|")[2] for row in rows[:2]]
    assert "| given | 100.00 / 100.00 |" in lines  # the truth itself, as rough masks
    assert "## Rough masks of the folder masks, mIoU / mBIoU" in lines
    run(image, *arguments, *refiners, "--output", tmp_path / "finer", *prompts[:1], *prompts[2:])
    finer = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| plain, ")]
    assert finer[1].split("|")[2] == alone[3].split("|")[2]
    assert (tmp_path / "out" / "residual" / "table.md").exists()
    assert json.loads((tmp_path / "out" / "results.json").read_text()).keys() == {"SAM2", "hq", "residual"}
    with pytest.raises(ValueError, match="folders of names of their own, none of them SAM2; got hq"):
        run(image, *arguments, "--refiners", tmp_path / "hq", tmp_path / "hq", "--output", tmp_path / "two")


@pytest.mark.slow
def test_refiners_side_by_side_in_videos(davis, checkpoint, tmp_path, capsys):
    """The row of the model without one, and of each with its own, are those of runs with them alone."""
    save_refiner(hq_model(), tmp_path / "hq")
    arguments = (davis, "--checkpoint", checkpoint, "--clips", "one")
    run(video, *arguments, "--refiners", tmp_path / "hq", "--output", tmp_path / "out")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| plain, ")]
    assert [row.split("|")[1].strip() for row in rows] == ["plain, SAM2", "plain, hq"]
    run(video, *arguments, "--refiner", tmp_path / "hq", "--output", tmp_path / "one")
    alone = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| plain + hq ")]
    assert [row.split("|")[2:] for row in alone] == [rows[1].split("|")[2:]]
    assert len(list((tmp_path / "out" / "hq" / "masks" / "one").glob("*.png"))) == 6
    with pytest.raises(ValueError, match="neither another refiner nor predictions"):
        run(video, *arguments, "--refiners", tmp_path / "hq", "--model", "box", "--output", tmp_path / "two")


def test_masks_of_the_wrong_size_are_named(pairs, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"not one item could be evaluated, 1 were left out; .*as large as its image"):
        run(image, f"folder:{tmp_path}", "--model", "box", "--output", tmp_path / "out")


def test_what_cannot_be_read_is_a_failure_and_an_empty_truth_is_none(tmp_path, capsys):
    write_pairs(tmp_path / "set", 3)
    mask = tmp_path / "set" / "masks" / "photo1.png"
    with Image.open(mask) as picture:
        Image.new("L", picture.size).save(mask)
    arguments = (f"folder:{tmp_path / 'set'}", "--model", "box", "--output", tmp_path / "out")
    run(image, *arguments)
    assert "1 items left out (listed in table.md)" in capsys.readouterr().out
    mask.write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="1"):
        run(image, *arguments)
    assert "sam2refiner: 1 items could not be read (listed in table.md)" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["items"]) == 2
