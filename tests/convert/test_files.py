"""Files of tensors as strangers have them: what PyTorch reads from them, from wherever in them a model lies."""

import argparse
import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sam2refiner_jax import CheckpointError
from sam2refiner_jax.convert import read_official
from sam2refiner_jax.convert.files import open_tensors
from sam2refiner_jax.convert.recognition import PATCHES, find_tensors

# By these names a model is known; no whole one is needed to find it.
MODEL = {
    PATCHES: torch.arange(6.0).reshape(2, 3),
    "image_encoder.neck.convs.0.conv.bias": torch.arange(3.0),
    "no_mem_embed": torch.arange(4.0).reshape(1, 1, 4),
}
COMPILED = {"image_encoder._orig_mod.trunk.patch_embed.proj.weight": MODEL[PATCHES]}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in MODEL.items()}


def expect(path, expected: dict[str, torch.Tensor]) -> None:
    found = find_tensors(open_tensors(path))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(
            np.asarray(found[name], np.float32), tensor.detach().float().numpy(), err_msg=name
        )


@pytest.mark.parametrize(
    "content",
    [
        MODEL,
        {"model": MODEL},
        {"state_dict": prefixed("sam2_model."), "epoch": 3, "best": [0.5]},
        {"model_state_dict": prefixed("module._orig_mod.")},
        {"model": prefixed("model."), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{}]}},
        {"trainer": {"net": prefixed("_orig_mod.module.sam2.")}},
        {"model": {**MODEL, **COMPILED, PATCHES: None} | {PATCHES: None}},
        {"ema": prefixed("module."), "model": MODEL},
        {"model": {name: torch.nn.Parameter(tensor) for name, tensor in MODEL.items()}},
        {"model": {name: tensor.clone().requires_grad_() for name, tensor in MODEL.items()}},
    ],
    ids=[
        "flat",
        "model",
        "state_dict",
        "module",
        "training",
        "nested",
        "compiled",
        "average",
        "parameters",
        "gradients",
    ],
)
def test_a_model_is_found_wherever_it_lies(content, tmp_path):
    if content.get("model", {}).get(PATCHES, 0) is None:  # its name has a wrapper's part inside
        del content["model"][PATCHES]
    torch.save(content, tmp_path / "a.pt")
    expect(tmp_path / "a.pt", MODEL)


def test_numbers_are_those_that_pytorch_reads(tmp_path):
    """Of every type, in views, in storages that several share; in archives, compressed too, and files before them."""
    numbers = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 6))) * 50
    types = (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "float8_e5m2",
    )
    tensors = {name: numbers.to(getattr(torch, name)) for name in types}
    tensors |= {
        PATCHES: numbers.float()[1:, ::2].T,
        "a.row": tensors["float32"][2],
        "a.repeated": torch.ones(()).expand(3, 2),
        "a.number": torch.tensor(2.5),
        "a.nothing": torch.zeros(0, 3),
    }
    torch.save({"model": tensors}, tmp_path / "a.pt")
    expect(tmp_path / "a.pt", tensors)
    del tensors["float8_e5m2"]  # which PyTorch alone reads
    torch.save({"model": tensors}, tmp_path / "b.pt")
    expect(tmp_path / "b.pt", tensors)
    with zipfile.ZipFile(tmp_path / "b.pt") as stored, zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_LZMA) as new:
        for name in stored.namelist():
            new.writestr(name, stored.read(name))
    expect(tmp_path / "c.pt", tensors)
    torch.save({"model": tensors}, tmp_path / "d.pt", _use_new_zipfile_serialization=False)
    expect(tmp_path / "d.pt", tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, tmp_path / "e.safetensors")
    expect(tmp_path / "e.safetensors", tensors)


@pytest.fixture
def parts(tmp_path):
    """A folder with MODEL in three safetensors, and beside it an index of them."""
    folder = tmp_path / "parts"
    folder.mkdir()
    index = {}
    for i, (name, tensor) in enumerate(MODEL.items(), 1):
        index[name] = f"model-{i:05d}-of-00003.safetensors"
        save_file({name: tensor}, folder / index[name])
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_parts_are_read_by_folder_or_index(parts, tmp_path):
    expect(parts, MODEL)
    (tmp_path / "index.json").rename(parts / "model.safetensors.index.json")
    expect(parts / "model.safetensors.index.json", MODEL)
    expect(parts, MODEL)


def test_a_missing_part_is_named(parts, tmp_path):
    (parts / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"of 3 parts the folder lacks model-00002-of-00003.safetensors$"):
        read_official(parts)
    (tmp_path / "index.json").rename(parts / "model.safetensors.index.json")
    for source in (parts, parts / "model.safetensors.index.json"):
        with pytest.raises(
            CheckpointError, match=r"of the 3 files .* names, model-00002-of-00003.safetensors must lie"
        ):
            read_official(source)


def test_a_folder_of_one_checkpoint_stands_for_it(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "sam2_video"}')
    (tmp_path / "README.md").write_text("Hugging Face's folders have these.")
    (tmp_path / "._large.pt").write_bytes(b"\0\5\x16\7")
    save_file({"vision_encoder.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    torch.save(MODEL, tmp_path / "large.pt")
    expect(tmp_path, MODEL)
    (tmp_path / "large.pt").unlink()
    save_file(MODEL, tmp_path / "model.safetensors")
    expect(tmp_path, MODEL)


def test_names_of_files_do_not_matter(tmp_path):
    torch.save(MODEL, tmp_path / "a.safetensors")
    save_file(MODEL, tmp_path / "b.pt")
    expect(tmp_path / "a.safetensors", MODEL)
    expect(tmp_path / "b.pt", MODEL)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html>", "a web page, not a checkpoint"),
        (b"<html lang='en'>", "a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4\nsize 9\n", "a pointer of Git LFS"),
        (
            b'{"error": "Repository not found"}',
            r"text, not a checkpoint; it begins '\{\"error\": \"Repository not found",
        ),
        (b"\x1f\x8b\x08\0", "compressed by gzip"),
    ],
)
def test_what_is_no_checkpoint_is_told_by_what_it_is(suffix, content, message, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_official(path)


def test_what_holds_no_model_or_several_is_told_by_what_it_holds(tmp_path):
    for content, message in [
        ({"net": MODEL, "ema": MODEL}, r"holds several SAM 2 models: net, ema; it must hold one"),
        (MODEL | prefixed("module."), r"with and without a wrapper's name in it"),
        ({"layer.weight": torch.ones(3, 2)}, rf"expected {PATCHES} among them, got layer.weight \(3, 2\)"),
        ({"image_encoder.patch_embed.proj.weight": torch.ones(3)}, "of the first Segment Anything"),
        (
            {"model": MODEL, "args": argparse.Namespace(lr=1)},
            "it holds argparse.Namespace besides tensors; nothing in it",
        ),
        ({"model": {}}, "got no tensor"),
    ]:
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=message):
            read_official(tmp_path / "a.pt")
    (tmp_path / "index.json").write_text('{"weight_map": [1]}')
    with pytest.raises(CheckpointError, match="must be an index that names a file for every tensor under weight_map"):
        read_official(tmp_path / "index.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"the folder must hold a checkpoint: .*; got nothing"):
        read_official(tmp_path / "folder")
    for name in ("a.pt", "b.pt"):
        torch.save(MODEL, tmp_path / "folder" / name)
    with pytest.raises(CheckpointError, match=r"several checkpoints, of which one must be named: a.pt, b.pt"):
        read_official(tmp_path / "folder")


def test_damaged_archives_are_refused(tmp_path):
    """Whichever byte is wrong, nothing but a CheckpointError comes of it; a wrong number is noticed."""
    torch.save({"model": MODEL}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    numbers = MODEL[PATCHES].numpy().tobytes()
    path = tmp_path / "b.pt"
    path.write_bytes(whole.replace(numbers, numbers[:-1] + b"\x01"))
    with pytest.raises(CheckpointError, match="CRC"):
        np.asarray(find_tensors(open_tensors(path))[PATCHES])
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            for tensor in find_tensors(open_tensors(path)).values():
                np.asarray(tensor)
        except CheckpointError:
            pass
