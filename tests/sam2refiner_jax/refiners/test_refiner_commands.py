"""`--refiner` of the commands, as a user gives it."""

import numpy as np
import pytest
from PIL import Image
from small import refining_model
from videos import moving_frames, write_jpegs

from sam2refiner_jax import SAM2ImagePredictor, load_model, save_model, save_refiner
from sam2refiner_jax.commands.cli import main
from sam2refiner_jax.image.preprocess import read_photo

CLICK = ("--points", 30, 20, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model, a refiner and a clip."""
    folder = tmp_path_factory.mktemp("models")
    model = refining_model()
    save_model(model.with_refiner(None), folder / "base")
    save_refiner(model, folder / "refiner")
    write_jpegs(folder / "clip", moving_frames(3, 60, 90))
    return folder


def run(*arguments):
    main([str(a) for a in arguments])


def test_segment_shows_coarse_and_refined(folder, tmp_path, capsys):
    photo, models = folder / "clip" / "00000.jpg", ("--checkpoint", folder / "base", "--refiner", folder / "refiner")
    run("segment", photo, *models, *CLICK, "--output", tmp_path, "--side-by-side")
    predictor = SAM2ImagePredictor(load_model(folder / "base", refiner=folder / "refiner"))
    predictor.set_image(read_photo(photo))
    masks, _, _ = predictor.predict([[30, 20]], [1], multimask_output=False)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "00000_object0.png")), masks[0] * 255)
    assert Image.open(tmp_path / "00000_overlay.png").size == (2 * 90, 60)

    with pytest.raises(SystemExit):
        run("segment", photo, *models[:2], *CLICK, "--output", tmp_path, "--side-by-side")
    assert "side_by_side must be off without a refiner" in capsys.readouterr().err


@pytest.mark.slow
def test_track_writes_refined_masks(folder, tmp_path):
    arguments = ("track", folder / "clip", "--checkpoint", folder / "base", *CLICK, "--no-overlay", "--output")
    run(*arguments, tmp_path / "plain")
    run(*arguments, tmp_path / "refined", "--refiner", folder / "refiner")
    plain, refined = (
        [np.asarray(Image.open(path)) for path in sorted((tmp_path / name / "clip").glob("*.png"))]
        for name in ("plain", "refined")
    )
    assert len(plain) == len(refined) == 3
    assert all(mask.shape == (60, 90) for mask in refined)
    assert any((a != b).any() for a, b in zip(plain, refined, strict=True))


def test_export_writes_a_state_dict(folder, tmp_path):
    import torch

    run("export", folder / "refiner", tmp_path / "refiner.pt")
    tensors = torch.load(tmp_path / "refiner.pt", weights_only=True)["model"]
    assert tensors["mask_refinement.up1.weight"].shape == (64, 32, 2, 2)
