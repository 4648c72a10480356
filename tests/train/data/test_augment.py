import cv2
import numpy as np
import pytest
import torch

from sam2refiner_jax.image.preprocess import MEAN, STD, preprocess_image
from sam2refiner_jax.train.config import AugmentConfig
from sam2refiner_jax.train.data.augment import augment, change_colours, resize, squeeze

SIZE = 128


def ramps(height, width):
    """An image that says where each of its pixels is: red is x, green is y. Its mask is a slanted half."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, np.full_like(x, 200)], -1).astype(np.uint8)
    return {"image": image, "mask": np.where(x + 2 * y > width // 2 + height, np.uint8(255), np.uint8(0))}


def scaled_by_torch(picture, height, width):
    tensor = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]
    shrinks = height < picture.shape[0]
    scaled = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", antialias=shrinks)
    return scaled[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("fixture", ["photo", "wide_photo", "tall_photo"])
@pytest.mark.parametrize("size", [1024, 256, 96])
def test_squeezed_photos_are_what_the_predictor_sees(request, fixture, size):
    image = np.ascontiguousarray(request.getfixturevalue(fixture))
    mask = np.full(image.shape[:2], 255, np.uint8)
    squeezed = squeeze({"image": image, "mask": mask}, size)
    seen = (preprocess_image(image, size) * STD + MEAN) * 255
    np.testing.assert_allclose(squeezed["image"], seen, atol=1.01)
    np.testing.assert_array_equal(squeezed["mask"], 255)


@pytest.mark.parametrize("shape", [(40, 60), (300, 50), (500, 700)])
def test_masks_stay_with_their_images(shape):
    mask = np.zeros(shape, np.uint8)
    cv2.ellipse(mask, (shape[1] // 2, shape[0] // 3), (shape[1] // 4, shape[0] // 5), 30, 0, 360, 255, -1)
    squeezed = squeeze({"image": np.repeat(mask[..., None], 3, -1), "mask": mask}, SIZE)
    assert squeezed["mask"].shape == (SIZE, SIZE)
    np.testing.assert_array_equal(squeezed["image"][..., 0], squeezed["mask"])
    np.testing.assert_allclose((squeezed["mask"] >= 128).mean(), (mask >= 128).mean(), atol=0.01)


def test_thin_objects_survive():
    mask = np.zeros((3000, 2000), np.uint8)
    mask[500, 300:1700] = 255
    result = squeeze({"image": np.zeros((3000, 2000, 3), np.uint8), "mask": mask}, 64)["mask"]
    expected = np.zeros((64, 64), bool)
    expected[500 * 64 // 3000, 300 * 64 // 2000 : 1699 * 64 // 2000 + 1] = True
    np.testing.assert_array_equal(result >= 128, expected)


@pytest.mark.parametrize("shape", [(100, 160), (250, 120), (200, 200)])
@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(flip=False), AugmentConfig(jitter=None)])
def test_image_and_mask_move_alike(shape, config):
    """Every pixel of the result is where the ramps say, and in the mask exactly if that place is."""
    height, width = shape
    flips = set()
    scales = []
    for seed in range(40):
        result = augment(ramps(*shape), SIZE, config, np.random.default_rng(seed))
        image, mask = result["image"].astype(float), result["mask"]
        assert image.shape == (SIZE, SIZE, 3)
        assert mask.shape == (SIZE, SIZE)
        assert mask.max() >= 128
        x, y, shown = image[..., 0], image[..., 1], image[..., 2] > 190
        np.testing.assert_array_equal(mask[~shown], 0)
        np.testing.assert_array_equal(image[~shown], 128)
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        assert rows[0] == columns[0] == 0  # in the upper left corner, as HQ-SAM pads
        steps = np.array([x[0, columns[-1]] - x[0, 0], y[rows[-1], 0] - y[0, 0]]) / (len(columns) - 1, len(rows) - 1)
        flips.add(bool(steps[0] < 0))
        side = x + 2 * y - (width // 2 + height)
        certain = shown & (np.abs(side) > 4 * max(1, np.abs(steps).max()))  # off the edge, where a mask is neither
        np.testing.assert_array_equal(mask[certain], np.where(side[certain] > 0, 255, 0))
        if len(rows) > 40 and len(columns) > 40:
            scales.append(1 / np.abs(steps))
    assert flips == ({True, False} if config.flip else {False})
    scales = np.array(scales) * max(shape) / SIZE
    if config.jitter is None:
        np.testing.assert_allclose(scales, np.full_like(scales, max(shape) / np.array([width, height])), rtol=0.05)
    else:
        np.testing.assert_allclose(scales[:, 0], scales[:, 1], rtol=0.08)
        assert 0.3 < scales.min() < 0.9
        assert 1.5 < scales.max() < 2.15


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_jitter_is_scaling_and_then_cropping(photo, scale):
    """As HQ-SAM does it: the whole image scaled, then a part of the input's size cut out."""
    image = np.ascontiguousarray(photo[:SIZE, :SIZE])
    place = ramps(SIZE, SIZE)["image"]
    config = AugmentConfig(flip=False, jitter=(scale, scale))
    for seed in range(3):
        mask = np.full((SIZE, SIZE), 255, np.uint8)
        result = augment({"image": image, "mask": mask}, SIZE, config, np.random.default_rng(seed))["image"]
        where = augment({"image": place, "mask": mask}, SIZE, config, np.random.default_rng(seed))["image"]
        side = round(SIZE * scale)
        whole = scaled_by_torch(image, side, side)
        shown = min(side, SIZE)
        x, y = (round(int(where[0, 0, axis]) * scale) for axis in (0, 1))
        inner = slice(2, shown - 2)  # at a cut, the pixels beyond it have no say here
        np.testing.assert_allclose(result[inner, inner], whole[y : y + shown, x : x + shown][inner, inner], atol=1.01)


def test_an_object_that_jitter_loses_is_squeezed():
    sample = {"image": np.full((400, 400, 3), 9, np.uint8), "mask": np.zeros((400, 400), np.uint8)}
    sample["mask"][200, 200] = 255  # at a tenth of the size there is nothing left of it
    result = augment(sample, SIZE, AugmentConfig(flip=False, jitter=(0.1, 0.1)), np.random.default_rng(0))
    np.testing.assert_array_equal(result["image"], 9)
    assert [*np.argwhere(result["mask"] >= 128)[0]] == [64, 64]


def test_a_jitter_that_keeps_the_object_is_found():
    sample = {"image": np.full((400, 400, 3), 9, np.uint8), "mask": np.zeros((400, 400), np.uint8)}
    sample["mask"][:100, :100] = 255
    config = AugmentConfig(jitter=(2.0, 2.0))  # A quarter of the image is seen; one attempt in four shows the object.
    squeezed = np.count_nonzero(squeeze(sample, SIZE)["mask"])
    shown = [np.count_nonzero(augment(sample, SIZE, config, np.random.default_rng(seed))["mask"]) for seed in range(30)]
    assert min(shown) > 0
    assert sum(count != squeezed for count in shown) >= 24


@pytest.mark.parametrize("shape", [(120, 200), (250, 90)])
def test_squeezed_parts_fill_the_input(shape):
    """Each side of the part is from half of the image's to all of it, at every place; the mask moves along."""
    parts = []
    for seed in range(200):
        result = augment(ramps(*shape), SIZE, AugmentConfig(flip=False, squeeze=1.0), np.random.default_rng(seed))
        x, y = (result["image"][..., axis].astype(float) for axis in (0, 1))
        np.testing.assert_array_equal(result["image"][..., 2], 200)  # no padding anywhere
        parts.append([y[0, 0], y[-1, 0], x[0, 0], x[0, -1]])
        side = x + 2 * y - (shape[1] // 2 + shape[0])
        certain = np.abs(side) > 8
        np.testing.assert_array_equal(result["mask"][certain], np.where(side[certain] > 0, 255, 0))
    parts = np.array(parts)
    for (start, stop), length in zip((parts[:, :2].T, parts[:, 2:].T), shape, strict=True):
        share = (stop - start + 1) / length
        assert 0.48 < share.min() < 0.55
        assert 0.95 < share.max() <= 1
        assert start.min() <= 2
        assert stop.max() >= length - 3
    heights, widths = parts[:, 1] - parts[:, 0], parts[:, 3] - parts[:, 2]
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.3


def test_a_share_of_the_images_is_squeezed():
    """Of a square image, jitter keeps the proportions; the others are squeezed."""
    results = [
        augment(ramps(200, 200), SIZE, AugmentConfig(False, (0.5, 0.5), squeeze=0.3), np.random.default_rng(seed))
        for seed in range(200)
    ]
    padded = np.mean([(result["image"][-1, -1] == 128).all() for result in results])
    assert 0.6 < padded < 0.8
    with pytest.raises(ValueError, match=r"squeeze must be from 0 to 1, got 1\.2"):
        AugmentConfig(squeeze=1.2)


def test_turned_images_are_turned_about_their_centre():
    """Every pixel shows the place that the opposite turn leads to, mirrored at the edges; the mask moves along."""
    sample, angles = ramps(90, 140), []
    for seed in range(30):
        config = AugmentConfig(flip=False, jitter=(1.0, 1.0), rotate=30.0)
        result = augment(sample, 140, config, np.random.default_rng(seed))
        image, mask = result["image"][:90].astype(float), result["mask"][:90]
        angle = np.random.default_rng(seed).uniform(-30, 30)
        angles.append(angle)
        y, x = np.mgrid[:90, :140] - np.array([44.5, 69.5])[:, None, None]
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        source_x, source_y = cos * x - sin * y + 69.5, sin * x + cos * y + 44.5
        source_x, source_y = (n - 1 - abs(n - 1 - abs(at)) for n, at in ((140, source_x), (90, source_y)))
        np.testing.assert_allclose(image[..., 0], source_x, atol=1.1)
        np.testing.assert_allclose(image[..., 1], source_y, atol=1.1)
        side = source_x + 2 * source_y - 160
        certain = abs(side) > 5
        np.testing.assert_array_equal(mask[certain], np.where(side[certain] > 0, 255, 0))
    assert min(angles) < -20
    assert max(angles) > 20


def test_an_object_that_a_turn_would_lose_stays():
    sample = {"image": np.full((60, 200, 3), 9, np.uint8), "mask": np.zeros((60, 200, 2), np.uint8)}
    sample["mask"][:2, :2] = 255
    for seed in range(20):
        result = augment(sample, SIZE, AugmentConfig(jitter=None, rotate=90.0), np.random.default_rng(seed))
        assert (result["mask"].max(axis=(0, 1)) >= 128).all()
    with pytest.raises(ValueError, match="rotate must be from 0 to 180 degrees, got 200"):
        AugmentConfig(rotate=200.0)


def test_resizing_grayscale_that_shares_memory():
    gray = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, 30, 3))
    np.testing.assert_array_equal(resize(gray, 80, 60), resize(np.ascontiguousarray(gray), 80, 60))
    np.testing.assert_array_equal(resize(gray, 20, 10), resize(np.ascontiguousarray(gray), 20, 10))


@pytest.mark.parametrize("jitter", [(0.0, 1.0), (2.0, 0.5)])
def test_impossible_jitter(jitter):
    with pytest.raises(ValueError, match=r"jitter must be a range of positive scales, got \("):
        AugmentConfig(jitter=jitter)


@pytest.mark.parametrize("config", [AugmentConfig(jitter=(0.6, 2.5)), AugmentConfig(jitter=None)])
def test_several_objects_move_together(config):
    """Each of several masks becomes what it becomes alone; one that the window misses gives way to the first."""
    image = ramps(90, 140)["image"]
    masks = np.zeros((90, 140, 3), np.uint8)
    masks[30:60, 40:90, 0], masks[2:8, 3:9, 1], masks[:, 70:, 2] = 255, 255, 255
    lost = 0
    for seed in range(20):
        result = augment({"image": image, "mask": masks}, SIZE, config, np.random.default_rng(seed))
        first = augment({"image": image, "mask": masks[..., 0]}, SIZE, config, np.random.default_rng(seed))
        np.testing.assert_array_equal(result["image"], first["image"])
        np.testing.assert_array_equal(result["mask"][..., 0], first["mask"])
        x, y = (result["image"][..., i].astype(float) for i in (0, 1))
        for i, (x0, x1, y0, y1) in enumerate([(40, 90, 30, 60), (3, 9, 2, 8), (70, 140, 0, 90)]):
            mask = result["mask"][..., i]
            inside = (x > x0 + 3) & (x < x1 - 4) & (y > y0 + 3) & (y < y1 - 4) & (result["image"][..., 2] > 190)
            if i and np.array_equal(mask, result["mask"][..., 0]):
                lost += 1
            else:
                np.testing.assert_array_equal(mask[inside], 255)
            assert mask.max() >= 128
    assert (lost > 0) == (config.jitter is not None)


def test_colours_change_as_said():
    """By hand: channels, then saturation about their mean, contrast about the image's, brightness."""
    image = np.random.default_rng(0).integers(60, 160, (6, 7, 3)).astype(np.uint8)
    for seed in range(5):
        changed = change_colours(image, 0.2, np.random.default_rng(seed))
        brightness, contrast, saturation, *channels = np.random.default_rng(seed).uniform(0.8, 1.2, 6)
        pixels = image.astype(float) * channels
        grey = pixels.mean(axis=-1, keepdims=True)
        pixels = grey + saturation * (pixels - grey)
        mean = pixels.mean(axis=(0, 1))
        expected = brightness * (mean + contrast * (pixels - mean))
        np.testing.assert_allclose(changed, expected.round().clip(0, 255), atol=1)
    assert changed.dtype == np.uint8


def test_colours_leave_places_alone():
    sample = ramps(90, 140)
    plain, coloured = (augment(sample, SIZE, AugmentConfig(colour=c), np.random.default_rng(3)) for c in (0.0, 0.3))
    np.testing.assert_array_equal(plain["mask"], coloured["mask"])
    assert (plain["image"] != coloured["image"]).mean() > 0.3
    with pytest.raises(ValueError, match="colour must be at least 0 and less than 1, got 1"):
        AugmentConfig(colour=1.0)
