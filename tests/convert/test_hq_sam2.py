"""Files of HQ-SAM 2, which hold a model and its refiner."""

import contextlib
import io

import numpy as np
import pytest
import torch

from sam2refiner_jax import CheckpointError, HQSAM2Config, load_model, load_refiner
from sam2refiner_jax.checkpoints import REFINER_FOLDER, describe_weights
from sam2refiner_jax.commands.cli import main
from sam2refiner_jax.config import get_config
from sam2refiner_jax.convert import compare_weights, convert_checkpoint, export_checkpoint
from sam2refiner_jax.convert.naming import official_key, torch_axes

# As the release's file has them, all of them in the mask decoder.
NEW = {
    "hf_token.weight": (1, 256),
    "hf_mlp.layers.0.weight": (256, 256),
    "hf_mlp.layers.0.bias": (256,),
    "hf_mlp.layers.1.weight": (256, 256),
    "hf_mlp.layers.1.bias": (256,),
    "hf_mlp.layers.2.weight": (32, 256),
    "hf_mlp.layers.2.bias": (32,),
    "embedding_maskfeature.0.weight": (64, 32, 3, 3),
    "embedding_maskfeature.0.bias": (64,),
    "embedding_maskfeature.1.weight": (64,),
    "embedding_maskfeature.1.bias": (64,),
    "embedding_maskfeature.3.weight": (32, 64, 3, 3),
    "embedding_maskfeature.3.bias": (32,),
}


def base_tensors(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        official_key(path): tuple(weight.shape[axis] for axis in torch_axes(path, weight))
        for path, weight in describe_weights(get_config(name)).items()
    }
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def new_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"sam_mask_decoder.{key}": torch.randn(shape, generator=generator) for key, shape in NEW.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The official tiny model, and one of HQ-SAM 2 on it."""
    folder = tmp_path_factory.mktemp("files")
    base = base_tensors("sam2.1_hiera_t")
    torch.save({"model": base}, folder / "plain.pt")
    torch.save({"model": base | new_tensors()}, folder / "hq.pt")
    return folder


def test_the_largest_has_the_releases_tensors():
    assert len(describe_weights(get_config("sam2.1_hiera_l"))) + len(NEW) == 916


@pytest.fixture(scope="module")
def converted(files):
    """The folder that the command writes, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main(["convert", str(files / "hq.pt"), str(files / "jax"), "--base", str(files / "plain.pt")])
    return files / "jax", said.getvalue()


def test_a_file_comes_back_bit_for_bit(files, converted, tmp_path):
    assert converted[1] == (
        f"sam2.1_hiera_t with its refiner hq_sam2: written to {converted[0]}\n"
        f"weights that differ from {files / 'plain.pt'}: 0 of {len(base_tensors('sam2.1_hiera_t'))}\n"
    )
    export_checkpoint(converted[0], tmp_path / "out.pt")
    tensors, returned = (
        torch.load(path, weights_only=True)["model"] for path in (files / "hq.pt", tmp_path / "out.pt")
    )
    assert returned.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(returned[key], tensor), key


def test_a_base_of_its_own_is_told():
    ours = {"a": np.zeros(2), "b": np.ones(3), "c": np.ones(1)}
    theirs = {"a": np.zeros(2), "b": np.array([1, 1, 1.5]), "d": np.ones(1)}
    assert compare_weights(ours, theirs) == {"b": 0.5, "c": np.inf, "d": np.inf}


def test_file_and_directory_load_the_same_model(files, converted):
    loaded, direct = load_model(converted[0]), load_model(files / "hq.pt")
    token = new_tensors()["sam_mask_decoder.hf_token.weight"]
    for model in (loaded, direct):
        assert model.refiner.config == HQSAM2Config()
        np.testing.assert_array_equal(model.refiner.hf_token.embedding[...], token)
    alone = load_refiner(converted[0] / REFINER_FOLDER, loaded.config)
    np.testing.assert_array_equal(alone.hf_token.embedding[...], token)


def test_the_repository_is_known_by_name(files, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a: asked.append(a) or str(files / "hq.pt"))
    assert load_model("lkeab/hq-sam").refiner.kind == "hq_sam2"
    assert asked == [("lkeab/hq-sam", "sam2.1_hq_hiera_large.pt")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("sam_mask_decoder.hf_mlp.layers.2.bias"), "missing sam_mask_decoder.hf_mlp.layers.2.bias"),
        (lambda t: t.update({"sam_mask_decoder.hf_new": torch.zeros(3)}), "unexpected sam_mask_decoder.hf_new"),
        (
            lambda t: t.update({"sam_mask_decoder.hf_token.weight": torch.zeros(2, 256)}),
            r"hf_token.weight must have shape \(1, 256\), got \(2, 256\)",
        ),
        (lambda t: t.update({"sam_mask_decoder.hf_token.weight": torch.full((1, 256), torch.nan)}), "256 NaN"),
    ],
)
def test_other_tensors_are_refused(files, tmp_path, change, message):
    tensors = torch.load(files / "hq.pt", weights_only=True)["model"]
    change(tensors)
    torch.save({"model": tensors}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(tmp_path / "bad.pt", tmp_path / "jax")
    assert not (tmp_path / "jax").exists()


def test_hq_sam_1_is_refused_by_name(tmp_path):
    tensors = {"image_encoder.patch_embed.proj.weight": torch.zeros(1280, 3, 16, 16)}
    tensors["mask_decoder.compress_vit_feat.0.weight"] = torch.zeros(1280, 256, 2, 2)
    torch.save(tensors, tmp_path / "sam_hq_vit_h.pth")
    with pytest.raises(CheckpointError, match=r"HQ-SAM 1 \(compress_vit_feat\), not of HQ-SAM 2"):
        load_model(tmp_path / "sam_hq_vit_h.pth")
