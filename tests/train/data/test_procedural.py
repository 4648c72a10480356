"""The procedural source: reproducible, exact, varied, within its limits."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2refiner_jax.data.sources import Sample, open_source
from sam2refiner_jax.train.data.procedural import ProceduralSource
from sam2refiner_jax.train.data.procedural.composition import put, smear, visible
from sam2refiner_jax.train.data.procedural.families import FAMILIES
from sam2refiner_jax.train.data.procedural.painting import Layer
from sam2refiner_jax.train.data.procedural.scene import LARGEST, SMALLEST
from sam2refiner_jax.train.data.procedural.shapes import ellipse
from sam2refiner_jax.train.data.procedural.sketch import Fur, Sketch, coverage

SIZE, COUNT = 64, 200


@pytest.fixture(scope="module")
def source() -> ProceduralSource:
    return ProceduralSource(size=SIZE, seed=3)


@pytest.fixture(scope="module")
def samples(source: ProceduralSource) -> list[Sample]:
    return [source[index] for index in range(COUNT)]


@pytest.fixture(scope="module")
def areas(samples: list[Sample]) -> np.ndarray:
    return np.array([float(sample["mask"].mean()) / 255 for sample in samples])


def disc(radius: float, centre: tuple[float, float], size: int) -> np.ndarray:
    """Coverage of a disc, 0..1, from 32 x 32 samples a pixel."""
    at = (np.arange(size * 32) + 0.5) / 32
    inside = (at[None] - centre[0]) ** 2 + (at[:, None] - centre[1]) ** 2 < radius**2
    return inside.reshape(size, 32, size, 32).mean(axis=(1, 3)).astype(np.float32)


def layer_of(alpha: np.ndarray, colour: tuple[float, float, float], x: int = 0, y: int = 0) -> Layer:
    return Layer(x, y, np.full((*alpha.shape, 3), colour, np.float32), alpha, [])


def render(sketch: Sketch, size: int, scale: float = 1.0, thinnest: float = 1.0) -> np.ndarray:
    affine = np.array([[scale, 0, size / 2], [0, scale, size / 2]])
    return sketch.render(np.random.default_rng(0), affine, size, size, thinnest)


def test_samples_are_pictures_with_masks(source: ProceduralSource, samples: list[Sample]) -> None:
    assert len(source) == 2**31 - 1
    assert source.name_of(5) != source.name_of(6)
    for sample in samples:
        assert sample["image"].shape == (SIZE, SIZE, 3)
        assert sample["mask"].shape == (SIZE, SIZE)
        assert sample["image"].dtype == sample["mask"].dtype == np.uint8
        assert sample["image"].std() > 2


def test_same_samples_in_another_process_and_any_order(source: ProceduralSource, samples: list[Sample]) -> None:
    script = (
        "import hashlib, pickle, sys; source = pickle.load(sys.stdin.buffer);"
        "print(hashlib.sha256(b''.join(source[i][k].tobytes() for i in (7, 3) for k in ('image', 'mask'))).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(source), capture_output=True, check=True, timeout=120
    )
    here = hashlib.sha256(b"".join(samples[i][key].tobytes() for i in (7, 3) for key in ("image", "mask"))).hexdigest()
    assert run.stdout.decode().strip() == here


def test_index_and_seed_give_other_samples(samples: list[Sample]) -> None:
    images = {sample["image"].tobytes() for sample in samples}
    assert len(images) == COUNT
    assert ProceduralSource(size=SIZE, seed=4)[0]["image"].tobytes() not in images


def test_other_objects_of_a_scene(source: ProceduralSource, samples: list[Sample]) -> None:
    counts = []
    for index, sample in enumerate(samples[:40]):
        several = source.several(index, 4)
        np.testing.assert_array_equal(several["image"], sample["image"])
        np.testing.assert_array_equal(several["mask"][..., 0], sample["mask"])
        masks = [several["mask"][..., i] for i in range(several["mask"].shape[2])]
        counts.append(len(masks))
        for i, mask in enumerate(masks):
            assert 2 * (mask > 127).mean() >= SMALLEST
            for other in masks[1:i]:  # the first may be a part of one of the others
                assert (mask.astype(int) + other <= 255 + 2).all()  # what one covers, the other does not
    assert min(counts) == 1
    assert max(counts) >= 3


def test_targets_keep_within_the_limits_and_vary(samples: list[Sample], areas: np.ndarray) -> None:
    assert all((sample["mask"] > 127).any() and (sample["mask"] < 128).any() for sample in samples)
    assert areas.min() > SMALLEST * 0.9
    assert areas.max() < LARGEST * 1.01
    assert (areas < 0.04).mean() > 0.1
    assert (areas > 0.12).mean() > 0.15
    assert 0.04 < np.median(areas) < 0.16


def test_some_targets_are_fine_and_some_compact(samples: list[Sample]) -> None:
    ratios = []
    for sample in samples:
        firm = (sample["mask"] > 127).astype(np.uint8)
        contours, _ = cv2.findContours(firm, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        boundary = sum(cv2.arcLength(contour, closed=True) for contour in contours)
        ratios.append(boundary**2 / (4 * np.pi * firm.sum()))  # 1 for a disc
    assert np.mean(np.array(ratios) > 5) > 0.25
    assert np.mean(np.array(ratios) < 2) > 0.15


def test_some_targets_have_holes(samples: list[Sample]) -> None:
    def has_hole(mask: np.ndarray) -> bool:
        _, tree = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        return tree is not None and bool((tree[0, :, 3] >= 0).any())

    assert np.mean([has_hole(sample["mask"]) for sample in samples]) > 0.1


def test_masks_are_soft_only_at_their_rims(samples: list[Sample]) -> None:
    soft = np.array([((sample["mask"] > 8) & (sample["mask"] < 247)).mean() for sample in samples])
    assert np.all(soft > 0)
    assert np.median(soft) < 0.12


def test_coverage_is_exact() -> None:
    sketch = Sketch()
    sketch.fill(ellipse([0.3, -0.2], 11.3, n=400), sketch.part())
    window, share = coverage(render(sketch, 32), 1)
    whole = np.zeros((32, 32))
    whole[window] = share / 255
    exact = disc(11.3, (16.3, 15.8), 32)
    # OpenCV fills what its outline touches: an eighth of a pixel more than the shape all around.
    assert np.abs(whole - exact).max() < 0.3
    assert 0 <= whole.sum() - exact.sum() < 0.15 * 2 * np.pi * 11.3
    at = np.arange(32) + 0.5
    assert (whole.sum(axis=0) @ at) / whole.sum() == pytest.approx(16.3, abs=0.03)
    assert (whole.sum(axis=1) @ at) / whole.sum() == pytest.approx(15.8, abs=0.03)


def test_parts_add_up_and_holes_are_holes() -> None:
    sketch = Sketch()
    body, patch = sketch.part(), sketch.part()
    sketch.fill(ellipse([0, 0], 12.0), body)
    sketch.fill(ellipse([10, 0], 6.0), patch, onto=body)
    sketch.erase(ellipse([-4, 0], 3.0))
    labels = render(sketch, 32)
    planes = np.zeros((2, 32, 32))
    for plane, number in zip(planes, (body, patch), strict=True):
        window, share = coverage(labels, number)
        plane[window] = share
    assert planes[1].any()
    assert not planes[1][:, 29:].any()  # the patch keeps to the body, though its outline goes beyond
    assert planes[:, 16, 12].sum() == 0
    assert planes[:, 16, 18].sum() == 255
    assert np.abs(planes.sum(axis=0)[14:18, 16:28] - 255).max() <= 2


def test_fur_grows_outwards_but_not_on_bare_parts() -> None:
    def furry_area(bare: tuple[int, ...]) -> int:
        sketch = Sketch()
        sketch.fill(ellipse([0, 0], 10.0), sketch.part())
        sketch.fur = Fur(length=5.0, density=2.0, wildness=0.3, bare=bare)
        return int((render(sketch, 40) > 0).sum())

    smooth = furry_area(bare=(1,))
    assert furry_area(bare=()) > 1.15 * smooth


def test_picture_and_mask_agree() -> None:
    alpha = disc(9.7, (14.2, 17.1), 32)
    scene = put(np.full((48, 48, 3), 20, np.float32), layer_of(alpha, (220, 120, 70), x=-4, y=10))
    shown, _ = visible([layer_of(alpha, (0, 0, 0), x=-4, y=10)], 48)
    np.testing.assert_allclose(scene[..., 0], 20 + 200 * shown[0], atol=0.05)
    np.testing.assert_allclose(scene[..., 2], 20 + 50 * shown[0], atol=0.05)


def test_motion_blurs_picture_and_mask_alike() -> None:
    alpha = disc(6.0, (24, 24), 48)
    moved = smear(np.random.default_rng(0), layer_of(alpha, (220, 120, 70)), 10.0)
    assert (moved.alpha > 0.01).sum() > 1.3 * (alpha > 0.01).sum()
    np.testing.assert_allclose(moved.alpha.sum(), alpha.sum(), rtol=1e-3)
    scene = put(np.full((48, 48, 3), 20, np.float32), moved)
    np.testing.assert_allclose(scene[..., 0], 20 + 200 * moved.alpha, atol=0.2)


def test_what_is_hidden_is_not_in_the_mask() -> None:
    lower, upper = disc(12, (20, 24), 48), disc(8, (30, 24), 48)
    shown, free = visible([layer_of(lower, (0, 0, 0)), layer_of(upper, (0, 0, 0))], 48)
    np.testing.assert_array_equal(shown[1], upper)
    assert shown[0][24, 28] == 0
    assert shown[0][24, 12] == 1
    np.testing.assert_allclose(shown[0] + shown[1] + free, 1, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.draw.__name__)
def test_every_family_draws(family) -> None:
    drawn = set()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sketch = family.draw(rng)
        low, high = sketch.bounds()
        scale = 60 / np.max(high - low)
        affine = np.array([[scale, 0, 32 - scale * (low + high)[0] / 2], [0, scale, 32 - scale * (low + high)[1] / 2]])
        labels = sketch.render(rng, affine, 64, 64, 1.0)
        assert (labels > 0).mean() > 0.005
        assert labels.max() <= len(sketch.parts)
        drawn.add(labels.tobytes())
    assert len(drawn) == 4


def test_photos_are_used(tmp_path: Path, samples: list[Sample]) -> None:
    def magenta(sample: Sample) -> float:
        red, green, blue = sample["image"].astype(float).reshape(-1, 3).mean(axis=0)
        return (red + blue) / 2 - green

    (tmp_path / "below").mkdir()
    cv2.imwrite(str(tmp_path / "below" / "a.png"), np.full((90, 70, 3), (255, 0, 255), np.uint8))
    source = open_source(f"procedural:?size={SIZE}&seed=3&photos={tmp_path}")
    with_photos = [magenta(source[index]) for index in range(30)]
    assert np.mean(np.array(with_photos) > 80) > 0.3
    assert np.mean([magenta(sample) > 80 for sample in samples]) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 16}, "size must be at least 32 pixels, got 16"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"length": 0}, "length must be 1 or more, got 0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProceduralSource(**arguments)


def test_folder_without_photos_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"photos must be folders that hold .*, got {tmp_path}"):
        ProceduralSource(photos=(str(tmp_path),))


def test_broken_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    source = ProceduralSource(size=SIZE, seed=3, photos=(str(tmp_path),))
    with pytest.raises(ValueError, match=r"photos must be readable images, got .*broken\.jpg"):
        [source[index] for index in range(20)]


def test_length_bounds_the_index() -> None:
    source = ProceduralSource(size=SIZE, length=2)
    assert len(source) == 2
    for index in (-1, 2):
        with pytest.raises(IndexError, match=r"index must be in \[0, 2\), got"):
            source[index]
