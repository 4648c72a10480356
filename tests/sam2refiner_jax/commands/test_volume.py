"""The command `volume`, on a bright ball in noise: what it reads, writes and refuses."""

import nibabel
import numpy as np
import pytest
import tifffile
import tyro
from PIL import Image
from small import small_model

from sam2refiner_jax import SAM2VideoPredictor, save_model
from sam2refiner_jax.commands.volume import volume
from sam2refiner_jax.data.volumes import open_volume

SLICES, HEIGHT, WIDTH = 7, 40, 56
AFFINE = np.array([[-0.7, 0.1, 0, 12], [0.1, 0.8, 0, -30], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    save_model(small_model(), path)
    return path


@pytest.fixture(scope="module")
def slices():
    """(slice, row, column), in Hounsfield-like units."""
    z, y, x = np.mgrid[:SLICES, :HEIGHT, :WIDTH]
    ball = ((z - 3) * 5) ** 2 + (y - 20) ** 2 + (x - 30) ** 2 < 14**2
    return (np.random.default_rng(0).normal(-600, 80, ball.shape) + 700 * ball).round().astype(np.int16)


def nifti(path, array, affine=AFFINE):
    """With the scale that scanners write: a value v in the file means 2 v - 10."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_slope_inter(2.0, -10.0)
    image.header["descrip"] = b"a scan"
    nibabel.save(image, path)
    return path


def run(*arguments):
    tyro.cli(volume, args=[str(a) for a in arguments])


BOX = ("--boxes", 18, 8, 44, 34)


def expected(pictures, frame, box=(18, 8, 44, 34)):
    """By the predictor, one direction at a time."""
    predictor = SAM2VideoPredictor(small_model())
    state = predictor.init_state(pictures)
    predictor.add_new_points_or_box(state, frame, 1, box=list(box))
    found = {}
    for reverse in (False, True):
        for index, _, logits in predictor.propagate_in_video(state, start_frame_idx=frame, reverse=reverse):
            found[index] = logits[0, 0] > 0
    return np.stack([found[i] for i in range(len(pictures))])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_nifti_comes_back_in_its_own_place(axis, slices, checkpoint, tmp_path):
    """Whatever the axis of the slices, which are shown with the first remaining axis to the right."""
    array = np.moveaxis(slices.transpose(0, 2, 1), 0, axis)
    scan = nifti(tmp_path / "scan.nii.gz", array)
    shown = open_volume(scan, axis).pictures((-1800.0, 600.0))
    grey = 255 * ((2 * slices - 10 + 1800) / 2400).clip(0, 1)
    np.testing.assert_allclose(np.stack(shown)[..., 0], grey, atol=0.51)
    run(scan, "--checkpoint", checkpoint, "--output", tmp_path, "--axis", axis, "--window", -1800, 600, *BOX)
    result = nibabel.load(tmp_path / "scan_objects.nii.gz")
    np.testing.assert_array_equal(result.affine, nibabel.load(scan).affine)
    assert result.shape == array.shape
    assert result.get_data_dtype() == np.uint8
    numbers = np.moveaxis(np.asarray(result.dataobj), axis, 0).transpose(0, 2, 1)
    mask = expected(shown, SLICES // 2)
    assert set(np.unique(numbers)) == {0, 1}
    assert ((numbers == 1) == mask).mean() >= 0.999
    assert result.header["descrip"].tobytes().startswith(b"a scan")


@pytest.mark.parametrize("form", ["pages", "imagej", "colour"])
def test_a_tiff_comes_back_as_one(form, slices, checkpoint, tmp_path):
    values = (slices + 1000).astype(np.uint16)
    if form == "colour":
        grey = np.clip((slices + 900) / 5, 0, 255).astype(np.uint8)
        tifffile.imwrite(tmp_path / "s.tif", np.repeat(grey[..., None], 3, -1), photometric="rgb")
    else:
        tifffile.imwrite(tmp_path / "s.tif", values, imagej=form == "imagej", photometric="minisblack")
    found = open_volume(tmp_path / "s.tif")
    assert found.values.shape[:3] == slices.shape
    if form == "colour":
        np.testing.assert_array_equal(np.stack(found.pictures())[..., 1], grey)  # 8 bits are shown as they are
    else:
        low, high = np.percentile(values, (0.5, 99.5))
        grey = 255 * ((values - low) / (high - low)).clip(0, 1)
        np.testing.assert_allclose(np.stack(found.pictures())[..., 1], grey, atol=0.51)
    run(tmp_path / "s.tif", "--checkpoint", checkpoint, "--output", tmp_path / "out", "--frame", 1, *BOX)
    numbers = tifffile.imread(tmp_path / "out" / "s_objects.tif")
    assert (numbers.shape, numbers.dtype) == (slices.shape, np.uint8)
    assert ((numbers == 1) == expected(found.pictures(), 1)).mean() >= 0.999


def test_a_mask_gives_its_numbers_and_results_are_replaced_alone(slices, checkpoint, tmp_path):
    scan = nifti(tmp_path / "scan.nii", slices.transpose(2, 1, 0))
    picture = np.zeros((HEIGHT, WIDTH), np.uint16)
    picture[10:30, 20:40], picture[2:8, 2:10] = 7, 300
    Image.fromarray(picture).save(tmp_path / "first.png")
    for _ in range(2):  # the second replaces the first one's result
        run(scan, "--checkpoint", checkpoint, "--output", tmp_path, "--mask", tmp_path / "first.png", "--frame", 0)
    target = tmp_path / "scan_objects.nii"
    numbers = np.asarray(nibabel.load(target).dataobj)
    assert numbers.dtype == np.uint16
    assert {7, 300} & set(np.unique(numbers[:, :, 0])) == {7, 300}
    nifti(target, slices.transpose(2, 1, 0))
    before = target.read_bytes()
    with pytest.raises(ValueError, match=r"scan_objects\.nii is no result of this program"):
        run(scan, "--checkpoint", checkpoint, "--output", tmp_path, *BOX)
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("scan.nii", ("--frame", 7), r"frame_idx must be in \[0, 6\]"),
        ("scan.nii", ("--axis", 3), "axis must be 0, 1 or 2, got 3"),
        ("scan.nii", ("--window", 5, 5), "window must be two values, the first smaller, got 5 and 5"),
        ("time.nii", (), r"time\.nii must hold one grey volume of three dimensions, got \(7, 40, 56, 3\)"),
        ("text.nii.gz", (), r"text\.nii\.gz is not a readable NIfTI file"),
        ("text.tif", (), r"text\.tif is not a readable TIFF"),
        ("page.tif", (), r"page\.tif must hold several slices of one size"),
        ("page.tif", ("--axis", 2), "axis must be 0 of a TIFF"),
        ("none.nii", (), r"none\.nii does not exist"),
        ("photo.jpg", (), r"photo\.jpg must be a volume: \.nii, \.nii\.gz, \.tif, \.tiff"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(name, arguments, message, slices, monkeypatch, tmp_path):
    monkeypatch.setattr("sam2refiner_jax.commands.volume.load_model", lambda *_, **__: small_model())
    nifti(tmp_path / "scan.nii", slices.transpose(2, 1, 0))
    nifti(tmp_path / "time.nii", np.repeat(slices[..., None], 3, -1))
    for text in ("text.nii.gz", "text.tif"):
        (tmp_path / text).write_text("no volume")
    tifffile.imwrite(tmp_path / "page.tif", slices[0])
    with pytest.raises(ValueError, match=message):
        run(tmp_path / name, "--output", tmp_path / "out", *BOX, *arguments)
    assert not list(tmp_path.glob("out/*"))
