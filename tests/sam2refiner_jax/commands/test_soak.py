"""Damaged files through the commands: a line or a result, no traceback, no input changed, nothing half written.

SAM2REFINER_SOAK=1000 SAM2REFINER_SOAK_SEED=7 pytest -s tests/sam2refiner_jax/commands/test_soak.py
"""

import contextlib
import functools
import json
import os
import random
import shutil
from collections import Counter

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small import small_model
from videos import moving_frames, write_jpegs, write_video

from sam2refiner_jax import load_model, save_model
from sam2refiner_jax.commands.cli import main
from sam2refiner_jax.convert import export_checkpoint

COUNT = int(os.environ.get("SAM2REFINER_SOAK", "11"))
SEED = int(os.environ.get("SAM2REFINER_SOAK_SEED", "0"))
HEIGHT, WIDTH = 48, 64
WORDS = [None, True, -1, 0, 0.5, 1e308, 2**70, "", "x" * 300, "../..", [], [[]], {}, [None], float("nan")]

# The file that is damaged, and the command that reads it; each runs in a copy of the valid inputs.
POINTS = ("--points", 10, 10, 1)
CASES = [
    ("photos/a.jpg", ("segment", "photos/a.jpg", "--checkpoint", "small", *POINTS)),
    ("photos/b.png", ("segment", "photos", "--checkpoint", "small", "--prompts", "prompts.json")),
    ("mask.png", ("segment", "photos/a.jpg", "--checkpoint", "small", "--mask", "mask.png")),
    ("prompts.json", ("segment", "photos", "--checkpoint", "small", "--prompts", "prompts.json")),
    ("clip.mp4", ("track", "clip.mp4", "--checkpoint", "small", "--boxes", 5, 5, 40, 40)),
    ("frames/00001.jpg", ("track", "frames", "--checkpoint", "small", "--boxes", 5, 5, 40, 40)),
    ("mask.png", ("track", "clip.mp4", "--checkpoint", "small", "--mask", "mask.png")),
    ("nano.pt", ("convert", "nano.pt", "out/converted")),
    ("nano.safetensors", ("convert", "nano.safetensors", "out/converted")),
    ("model/config.json", ("segment", "photos/a.jpg", "--checkpoint", "model", *POINTS)),
    # Another run's folder: refused in any case.
    ("run/config.json", ("train", "smoke", "--workdir", "run", "--steps", 3)),
]


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    (folder / "photos").mkdir()
    frames = moving_frames(3, HEIGHT, WIDTH)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(frames[0]).save(folder / "photos" / name)
    numbered = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbered[10:30, 10:40] = 1
    Image.fromarray(numbered, mode="P").save(folder / "mask.png")
    prompts = {"a.jpg": {"points": [[10, 10, 1]]}, "b.png": {"boxes": [[5, 5, 40, 40]]}}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    write_video(folder / "clip.mp4", frames)
    write_jpegs(folder / "frames", frames)
    save_model(small_model(), folder / "model")
    save_model(load_model("nano").with_refiner(None), folder / "nano")
    export_checkpoint(folder / "nano", folder / "nano.pt")
    save_file(torch.load(folder / "nano.pt")["model"], folder / "nano.safetensors")
    shutil.rmtree(folder / "nano")
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(json.dumps({"seed": 0, "steps": 5, "model": {"name": "sam2_nano"}}))
    return folder


def damage(content: bytes, random: random.Random, is_json: bool) -> bytes:
    """The content with one to three kinds of damage."""
    for _ in range(random.randint(1, 3)):
        if is_json and random.random() < 0.7:
            with contextlib.suppress(ValueError):
                content = json.dumps(reword(json.loads(content), random)).encode()
            continue
        at, length = random.randrange(len(content) + 1), random.choice((1, 4, 64, 4096))
        # Headers are short and say the most.
        at = min(at, random.choice((16, 256, len(content))))
        before, cut, after = content[:at], content[at : at + length], content[at + length :]
        content = random.choice(
            (
                before,
                before + after,
                before + random.randbytes(len(cut)) + after,
                before + random.randbytes(length) + cut + after,
                before + cut + cut + after,
                before + bytes(len(cut)) + after,
                before + bytes(byte ^ 1 << random.randrange(8) for byte in cut[:1]) + cut[1:] + after,
            )
        )
    return random.choice((b"", b"\xef\xbb\xbf" + content)) if random.random() < 0.05 else content


def reword(value, random):
    """A JSON value with one part, or its whole, replaced."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        new = str(random.choice(WORDS)) if random.random() < 0.2 else key
        return {(new if k == key else k): (reword(v, random) if k == key else v) for k, v in value.items()}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return [*value[:at], reword(value[at], random), *value[at + 1 :]]
    return random.choice(WORDS)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_whole(path):
    """Raises an error if the result is not readable to its end."""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".mp4":
        with av.open(str(path)) as container:
            assert list(container.decode(video=0))


@pytest.mark.slow
def test_damaged_files(valid, tmp_path, monkeypatch, capsys):
    print(f"{COUNT} damaged files, seed {SEED}")
    small = small_model()
    for module in ("segment", "track"):
        real = load_model

        def load(name, real=real, **options):
            return small if str(name) == "small" else real(name, **options)

        monkeypatch.setattr(f"sam2refiner_jax.commands.{module}.load_model", load)
    statuses: Counter = Counter()
    for number in range(-len(CASES), COUNT):  # first each undamaged
        draw = random.Random(f"{SEED} {number}")
        name, command = CASES[number % len(CASES)]
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(valid, place, copy_function=functools.partial(os.link))
        victim = place / name
        damaged = damage(victim.read_bytes(), draw, victim.suffix == ".json")
        if number >= 0:
            victim.unlink()
            victim.write_bytes(damaged)
        before = contents(place)
        monkeypatch.chdir(place)
        output = ("--output", "out") if command[0] in ("segment", "track") else ()
        capsys.readouterr()
        status = 0
        try:
            main([str(part) for part in (*command, *output)])
        except SystemExit as exit_:
            status = exit_.code or 0
        except BaseException:
            (tmp_path / "culprit").write_bytes(damaged)
            print(f"number {number}, {name}: {' '.join(map(str, command))}; the file is {tmp_path / 'culprit'}")
            raise
        said = capsys.readouterr().err
        assert status in (0, 2), (number, status, said)
        assert "Traceback" not in said, (number, said)
        assert status == 0 or "\nsam2refiner: " in "\n" + said.replace("\r", "\n"), (number, said)
        after = contents(place)
        assert {path: after.get(path) for path in before} == before, f"number {number} changed an input"
        for path in after.keys() - before.keys():
            assert path.is_relative_to(place / "out"), f"number {number} left {path}"
            assert not path.name.startswith("."), f"number {number} left {path}"
            check_whole(path)
        if command[0] == "convert" and status:
            assert not (place / "out" / "converted").exists(), f"number {number} left half a checkpoint"
        if number < 0:
            assert status == 0 or command[0] == "train", said
        else:
            statuses[command[0], name, status] += 1
    with capsys.disabled():
        for (command, name, status), count in sorted(statuses.items()):
            print(f"{command} {name}: {'read' if status == 0 else 'refused'} {count}")
