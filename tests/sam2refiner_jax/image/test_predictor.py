import dataclasses

import jax
import numpy as np
import pytest
import torch
from official import build_official, official_image_predictor, ours_of_few_blocks, randomise
from PIL import Image
from small import small_model

from sam2refiner_jax import SAM2ImagePredictor, load_model, save_model
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.predictor import decode_prompts
from sam2refiner_jax.image.prompts import pack_prompts, read_prompts


def both_predictors(name, size, folder):
    official = randomise(build_official(name, few_blocks=True, image_size=size))
    theirs = official_image_predictor(official)
    save_model(ours_of_few_blocks(official, name, 1024), folder)
    return theirs, SAM2ImagePredictor(load_model(folder, image_size=size))


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    """`test_sam2` has whole trunks and the released size; a checkpoint of it does the same at any."""
    return both_predictors("sam2.1_hiera_t", 256, tmp_path_factory.mktemp("model") / "few")


@pytest.fixture(scope="module")
def photo(photo):
    """Larger than the model's input."""
    return np.ascontiguousarray(photo[::3, ::3])


@pytest.fixture(scope="module")
def wide_photo(wide_photo):
    """Smaller than the model's input, larger than its low-resolution masks."""
    return np.ascontiguousarray(wide_photo[::4, ::4])


@pytest.fixture(scope="module")
def tall_photo(tall_photo):
    return np.ascontiguousarray(tall_photo[::3, ::3])


@pytest.fixture(scope="module")
def on_photo(predictors, photo):
    for predictor in predictors:
        predictor.set_image(photo)
    return predictors


@pytest.fixture(scope="module")
def small_predictor():
    """A predictor of a small input size on a small photo, for what needs no parity."""
    predictor = SAM2ImagePredictor(small_model())
    predictor.set_image(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    return predictor


def assert_equal_predictions(predictors, **prompts):
    official, ours = (p.predict(**prompts, return_logits=True) for p in predictors)
    assert [x.shape for x in ours] == [x.shape for x in official]
    assert [x.dtype for x in ours] == [x.dtype for x in official]
    span = official[2].max() - official[2].min()
    assert span > 0.1
    assert np.abs(ours[2] - official[2]).max() <= 1e-4 * span
    assert np.abs(ours[1] - official[1]).max() <= 1e-5
    assert ((ours[0] > 0) == (official[0] > 0)).mean() >= 0.9999
    binary = predictors[1].predict(**prompts)[0]
    np.testing.assert_array_equal(binary, (ours[0] > 0).astype(np.float32))
    return official


# Fractions of the photo's width and height.
CLICKS = np.array(
    [[0.28, 0.31], [0.62, 0.52], [0.1, 0.9], [0.5, 0.5], [0.9, 0.2], [0.3, 0.7], [0.75, 0.75], [0.2, 0.1]]
)
LABELS = np.array([1, 0, 1, 1, 0, 1, 0, 1])
BOXES = np.array([[0.23, 0.5, 0.39, 0.73], [0.04, 0.23, 0.96, 0.71], [0.69, 0.56, 0.78, 0.62]])


def prompts_for(photo, clicks=0, box=None):
    size = np.array([photo.shape[1], photo.shape[0]])
    prompts = {}
    if clicks:
        prompts |= {"point_coords": CLICKS[:clicks] * size, "point_labels": LABELS[:clicks]}
    if box is not None:
        prompts["box"] = BOXES[box] * np.tile(size, 2)
    return prompts


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(
    ("clicks", "box"),
    [(1, None), (2, None), (5, None), (8, None), (0, 0), (1, 0), (4, 1), (0, slice(0, 3)), (12, None)],
)
def test_points_and_boxes_equal_official(on_photo, photo, clicks, box, multimask):
    if clicks > len(CLICKS):
        rng = np.random.default_rng(0)
        prompts = {
            "point_coords": rng.uniform(0, 1, (clicks, 2)) * [photo.shape[1], photo.shape[0]],
            "point_labels": rng.integers(0, 2, clicks),
        }
    else:
        prompts = prompts_for(photo, clicks, box)
    assert_equal_predictions(on_photo, **prompts, multimask_output=multimask)


def test_several_objects_of_points_and_boxes_equal_official(on_photo, photo):
    size = np.array([photo.shape[1], photo.shape[0]])
    prompts = {
        "point_coords": CLICKS[:6].reshape(3, 2, 2) * size,
        "point_labels": LABELS[:6].reshape(3, 2),
        "box": BOXES * np.tile(size, 2),
    }
    assert_equal_predictions(on_photo, **prompts)


@pytest.mark.optimised
def test_refinement_rounds_with_masks_equal_official(on_photo, photo):
    low_res = assert_equal_predictions(on_photo, **prompts_for(photo, 1))[2]
    for k in range(3):
        low_res_k = low_res[k : k + 1]
        assert_equal_predictions(on_photo, mask_input=low_res_k, multimask_output=False)
        assert_equal_predictions(on_photo, mask_input=low_res_k, **prompts_for(photo, 2), multimask_output=False)
    assert_equal_predictions(on_photo, mask_input=low_res[:1], **prompts_for(photo, 1, 1))


CORNERS = BOXES.reshape(3, 2, 2)
AWKWARD_PROMPTS = {
    "padding": {"point_coords": [[0.28, 0.31], [-9, -9]], "point_labels": [1, -1]},
    "corners": {"point_coords": np.concatenate([CORNERS[0], CLICKS[1:2]]), "point_labels": [2, 3, 0]},
    "one corner": {"point_coords": CORNERS[0, :1], "point_labels": [2]},
    "rows of unequal length": {
        "point_coords": CLICKS[:4].reshape(2, 2, 2) * [[[1], [1]], [[1], [0]]],
        "point_labels": [[1, 0], [1, -1]],
    },
    "12 corners": {"point_coords": np.tile(CORNERS[0], (6, 1)), "point_labels": [2, 3] * 6},
    "no points": {"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0)},
    "no points and a box": {"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0), "box": BOXES[0]},
    "beyond the edge": {"point_coords": [[1.01, 0.5], [0.5, -0.02]], "point_labels": [1, 0]},
    "box (2, 2)": {"box": CORNERS[0]},
    "boxes (3, 2, 2)": {"box": CORNERS},
    "boxes (1, 3, 4)": {"box": BOXES[None]},
}


@pytest.mark.parametrize("name", AWKWARD_PROMPTS)
def test_awkward_prompts_equal_official(on_photo, name):
    assert_equal_predictions(on_photo, **AWKWARD_PROMPTS[name], normalize_coords=False)


def test_masks_for_several_objects_equal_official(on_photo, photo):
    masks = np.random.default_rng(0).normal(0, 5, (2, 1, 64, 64)).astype(np.float32)
    boxes = {"box": BOXES[:2] * np.tile([photo.shape[1], photo.shape[0]], 2)}
    for prompts in ({**boxes, "mask_input": masks}, {**boxes, "mask_input": masks[0]}):
        assert_equal_predictions(on_photo, **prompts)
    assert_equal_predictions(on_photo, **prompts_for(photo, 2), mask_input=masks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_tensors_equal_official(on_photo, dtype):
    prompts = {
        "point_coords": torch.tensor(CLICKS[:2], dtype=dtype, requires_grad=True),
        "point_labels": torch.tensor(LABELS[:2]),
        "box": torch.tensor(BOXES[0], dtype=dtype),
        "mask_input": torch.linspace(-5, 5, 64**2).reshape(1, 64, 64).to(dtype),
    }
    assert_equal_predictions(on_photo, **prompts, normalize_coords=False)


def test_clicks_of_one_object_are_refused_for_two_boxes_as_officially(on_photo, photo):
    """They were given to both boxes without a word."""
    prompts = prompts_for(photo, 2, slice(0, 2))
    official, ours = on_photo
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        official.predict(**prompts)
    with pytest.raises(ValueError, match="same number of objects, got box for 2, point_coords for 1"):
        ours.predict(**prompts)


def test_an_empty_list_of_points_is_no_points(small_predictor):
    expected = small_predictor.predict(np.zeros((0, 2)), np.zeros(0))
    for a, b in zip(small_predictor.predict([], []), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_normalized_coordinates_equal_official(on_photo):
    assert_equal_predictions(
        on_photo, point_coords=CLICKS[:2], point_labels=LABELS[:2], box=BOXES[0], normalize_coords=False
    )


def test_no_prompt_at_all_equals_official(on_photo):
    assert_equal_predictions(on_photo)


def test_prompts_matter(on_photo, photo):
    """The comparisons above would mean little if random weights ignored the prompt."""
    a = on_photo[1].predict(**prompts_for(photo, 1), return_logits=True)[2]
    b = on_photo[1].predict(**prompts_for(photo, 2), return_logits=True)[2]
    assert np.abs(a - b).max() > 0.01 * (a.max() - a.min())


@pytest.mark.optimised
@pytest.mark.parametrize("fixture", ["wide_photo", "tall_photo"])
def test_photo_shapes_equal_official(predictors, fixture, request):
    image = request.getfixturevalue(fixture)
    for predictor in predictors:
        predictor.set_image(image)
    assert_equal_predictions(predictors, **prompts_for(image, 2))
    assert_equal_predictions(predictors, **prompts_for(image, 0, 1), multimask_output=False)


def test_tiny_photo_equals_official(predictors):
    """Smaller than the low-resolution mask: the result is sampled down without antialiasing, as officially."""
    image = np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8)
    for predictor in predictors:
        predictor.set_image(image)
    official, ours = (p.predict(**prompts_for(image, 1), return_logits=True)[0] for p in predictors)
    assert np.abs(ours - official).max() <= 1e-4 * (official.max() - official.min())


def test_batches_equal_official(predictors, photo, wide_photo):
    images = [photo[:200, :300], wide_photo, photo]
    prompts = [prompts_for(images[0], 2), prompts_for(images[1], 2), prompts_for(images[2], 2)]
    arguments = {
        "point_coords_batch": [p["point_coords"] for p in prompts],
        "point_labels_batch": [p["point_labels"] for p in prompts],
        "box_batch": [prompts_for(image, 0, 0)["box"] for image in images],
    }
    official, ours = predictors
    official.set_image_batch(images)
    ours.set_image_batch(images)
    for reference, result in zip(
        zip(*official.predict_batch(**arguments, return_logits=True), strict=True),
        zip(*ours.predict_batch(**arguments, return_logits=True), strict=True),
        strict=True,
    ):
        assert [x.shape for x in result] == [x.shape for x in reference]
        assert np.abs(result[2] - reference[2]).max() <= 1e-4 * (reference[2].max() - reference[2].min())
        assert np.abs(result[1] - reference[1]).max() <= 1e-5
        assert ((result[0] > 0) == (reference[0] > 0)).mean() >= 0.9999


def test_batch_equals_single_photos(small_predictor):
    predictor = SAM2ImagePredictor(small_predictor.model)
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (h, w, 3), np.uint8) for h, w in ((50, 70), (80, 40))]
    boxes = [np.array([[5, 5, 30, 40], [1, 2, 20, 10]]), np.array([3, 4, 30, 60])]
    predictor.set_image_batch(images)
    masks, ious, low_res = predictor.predict_batch(box_batch=boxes, multimask_output=False)
    for image, box, *batched in zip(images, boxes, masks, ious, low_res, strict=True):
        predictor.set_image(image)
        single = predictor.predict(box=box, multimask_output=False)
        assert [x.shape for x in single] == [x.shape for x in batched]
        np.testing.assert_allclose(single[2], batched[2], atol=1e-5)


def test_photos_of_any_number_share_few_programs(small_predictor):
    predictor, rng = SAM2ImagePredictor(small_predictor.model), np.random.default_rng(0)
    photos = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(7)]
    box = np.array([10.0, 10, 40, 40])
    alone = []
    for photo in photos:
        predictor.set_image(photo)
        alone.append(predictor.predict(box=box, multimask_output=False, return_logits=True)[0])
    predictor.set_image_batch(photos[:4])  # batches of 1 and 4 and, below, of 2
    compiled = encode_photos._cache_size()
    for count in (3, 5, 6, 7):
        predictor.set_image_batch(photos[:count])
        assert len(predictor.get_image_embedding()) == count
        found = predictor.predict_batch(box_batch=[box] * count, multimask_output=False, return_logits=True)[0]
        np.testing.assert_allclose(found, alone[:count], rtol=1e-4, atol=1e-3)
    assert encode_photos._cache_size() <= compiled + 1


def test_image_embedding_equals_official(on_photo, photo):
    official, ours = on_photo
    official.set_image(photo)
    ours.set_image(photo)
    expected = official.get_image_embedding().numpy()
    embedding = np.asarray(ours.get_image_embedding())
    assert embedding.shape == expected.shape == (1, 256, 16, 16)
    assert np.linalg.norm(embedding - expected) <= 1e-5 * np.linalg.norm(expected)


def test_sam2_0_equals_official_at_another_input_size(photo, tmp_path):
    predictors = both_predictors("sam2_hiera_t", 128, tmp_path / "few")
    for predictor in predictors:
        predictor.set_image(photo)
    assert_equal_predictions(predictors, **prompts_for(photo, 3, 1))
    assert_equal_predictions(predictors, **prompts_for(photo, 1), multimask_output=False)


def test_one_compilation_serves_all_clicks_boxes_masks_and_photo_sizes():
    predictor = SAM2ImagePredictor(small_model())
    rng = np.random.default_rng(0)
    compiled = set()
    for height, width in ((40, 60), (200, 31), (97, 97)):
        image = rng.integers(0, 255, (height, width, 3), np.uint8)
        predictor.set_image(image)
        for clicks in range(1, 9):
            predictor.predict(**prompts_for(image, clicks))
            compiled.add((encode_photos._cache_size(), decode_prompts._cache_size()))
            predictor.predict(**prompts_for(image, clicks, 0), multimask_output=False)
        predictor.predict(**prompts_for(image, 0, 0), mask_input=np.zeros((1, 16, 16)))
    compiled.add((encode_photos._cache_size(), decode_prompts._cache_size()))
    assert len(compiled) == 1  # nothing after the first call


def test_padding_changes_no_result(small_predictor):
    """What stands in absent slots is read by nothing: results are the same to the bit whatever it is."""
    predictor = small_predictor
    arguments = {"photo_size": (60, 90), "image_size": 64}
    prompts = read_prompts(np.array([[20.0, 30.0], [50.0, 40.0]]), [1, 0], [5, 5, 60, 50], None, **arguments)
    packed = pack_prompts([prompts], 16)
    index = np.zeros(1, np.int32)
    clean = decode_prompts(predictor.model, predictor._photos, index, packed)
    garbage = np.where(packed.labels[..., None] == -2, np.float32(1e4), packed.points)
    soiled = decode_prompts(
        predictor.model,
        predictor._photos,
        index,
        dataclasses.replace(packed, points=garbage, mask=np.full_like(packed.mask, 7)),
    )
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(soiled), strict=True):
        np.testing.assert_array_equal(a, b)

    # A wider bucket is another program, so only rounding may differ.
    wider = dataclasses.replace(
        packed,
        points=np.pad(packed.points, ((0, 0), (0, 16), (0, 0))),
        labels=np.pad(packed.labels, ((0, 0), (0, 16)), constant_values=-2),
    )
    for a, b in zip(
        jax.tree.leaves(clean),
        jax.tree.leaves(decode_prompts(predictor.model, predictor._photos, index, wider)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=2e-6 * max(1, np.abs(a).max()))


def test_objects_do_not_change_each_other(small_predictor):
    boxes = np.array([[5, 5, 30, 40], [10, 2, 80, 50], [40, 30, 60, 55]])
    together = small_predictor.predict(box=boxes, return_logits=True)[0]
    assert together.shape == (3, 3, 60, 90)
    for box, masks in zip(boxes, together, strict=True):
        alone = small_predictor.predict(box=box, return_logits=True)[0]
        np.testing.assert_allclose(alone, masks, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize(
    "kind",
    [
        *("L", "LA", "RGBA", "P", "1", "I", "F", "array (h, w)", "array (h, w, 1)", "array (h, w, 4)", "float"),
        *("JAX", "JAX float", "16 bits", "16 bits of PIL"),
        *("int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    ],
)
def test_other_kinds_of_image_give_the_rgb_result(small_predictor, kind):
    predictor = SAM2ImagePredictor(small_predictor.model)
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 255, (30, 40, 3), np.uint8)
    gray = rgb[..., :1]
    transparent = np.concatenate([rgb, rng.integers(0, 255, (30, 40, 1), np.uint8)], axis=-1)
    gray_rgb = np.repeat(gray, 3, axis=-1)
    bilevel = np.repeat((gray > 127).astype(np.uint8) * 255, 3, axis=-1)
    given, expected = {
        "L": (Image.fromarray(gray[..., 0]), gray_rgb),
        "LA": (Image.fromarray(gray[..., 0]).convert("LA"), gray_rgb),
        "RGBA": (Image.fromarray(transparent), rgb),
        "P": (Image.fromarray(gray[..., 0]).convert("P"), gray_rgb),
        "1": (Image.fromarray(bilevel[..., 0]).convert("1"), bilevel),
        "I": (Image.fromarray(gray[..., 0].astype(np.int32)), gray_rgb),
        "F": (Image.fromarray(gray[..., 0].astype(np.float32) / 255), gray_rgb),
        "array (h, w)": (gray[..., 0], gray_rgb),
        "array (h, w, 1)": (gray, gray_rgb),
        "array (h, w, 4)": (transparent, rgb),
        "float": (rgb.astype(np.float64) / 255, rgb),
        "JAX": (jax.numpy.asarray(rgb), rgb),
        "JAX float": (jax.numpy.asarray(rgb, np.float32) / 255, rgb),
        "16 bits": (rgb.astype(np.uint16) * 257 + 100, rgb),
        "16 bits of PIL": (Image.fromarray(gray[..., 0].astype(np.uint16) * 257 + 100), gray_rgb),
        "int8": ((rgb // 2).astype(np.int8), rgb // 2),
        **{name: (rgb.astype(name), rgb) for name in ("int16", "int32", "int64", "uint16", "uint32", "uint64")},
    }[kind]
    embeddings = []
    for image in (given, expected):
        predictor.set_image(image)
        embeddings.append(np.asarray(predictor.get_image_embedding()))
    np.testing.assert_allclose(*embeddings, rtol=1e-5, atol=1e-5)


BAD_PROMPTS = [
    ({"point_coords": [[113.0, 5.0]], "point_labels": [1]}, r"point_coords must lie in the photo.*\[0, 90\].*113"),
    ({"point_coords": [[5.0, -16.0]], "point_labels": [0]}, "point_coords must lie in the photo"),
    ({"point_coords": [[float("nan"), 5.0]], "point_labels": [1]}, "point_coords must be finite, got nan"),
    ({"point_coords": [[5.0, 5.0]], "point_labels": [4]}, r"point_labels must be 1 .* or -1 \(padding\), got 4"),
    ({"point_coords": [[5.0, 5.0]], "point_labels": [-2]}, "point_labels must be 1 .*, got -2"),
    ({"point_coords": [[5.0, 5.0]], "point_labels": [0.5]}, "point_labels must be 1 .*, got 0.5"),
    ({"point_coords": [[5.0, 5.0]], "point_labels": ["a"]}, "point_labels must be numbers"),
    ({"point_coords": np.zeros((0, 3, 2)), "point_labels": np.zeros((0, 3))}, r"point_coords must have shape"),
    ({"box": []}, r"box must have shape \(4,\).*got \(0,\)"),
    ({"box": [[1.0, 2.0, 3.0, 4.0, 5.0]]}, r"box must have shape \(4,\).*got \(1, 5\)"),
    ({"point_coords": [[5.0, 5.0]]}, "point_labels must be given"),
    ({"point_labels": [1]}, "point_coords must be given"),
    (
        {"point_coords": [[5.0, 5.0]], "point_labels": [1, 0]},
        r"point_labels must have one label for each point.*\(2,\)",
    ),
    ({"point_coords": [5.0, 5.0], "point_labels": [1]}, r"point_coords must have shape \(n, 2\).*\(2,\)"),
    ({"point_coords": [["a", "b"]], "point_labels": [1]}, "point_coords must be numbers"),
    ({"box": [10.0, 10.0, 10.0, 20.0]}, r"box must be x0, y0, x1, y1 with x0 < x1.*10.0, 10.0, 10.0, 20.0"),
    ({"box": [30.0, 10.0, 10.0, 20.0]}, "box must be x0, y0, x1, y1 with x0 < x1"),
    ({"box": [100.0, 10.0, 110.0, 20.0]}, "box must overlap the photo"),
    ({"box": [1.0, 2.0, 3.0]}, r"box must have shape \(4,\)"),
    ({"mask_input": np.zeros((1, 8, 8))}, r"mask_input must have shape \(1, 16, 16\).*\(1, 8, 8\)"),
    ({"mask_input": np.zeros((3, 16, 16))}, r"mask_input must have shape \(1, 16, 16\)"),
    ({"mask_input": np.full((1, 16, 16), np.inf)}, "mask_input must be finite"),
    (
        {"box": [[1, 1, 5, 5], [2, 2, 6, 6]], "point_coords": np.ones((3, 1, 2)), "point_labels": np.ones((3, 1))},
        "same number of objects",
    ),
]


@pytest.mark.parametrize(("prompts", "message"), BAD_PROMPTS)
def test_bad_prompts_are_refused(small_predictor, prompts, message):
    with pytest.raises(ValueError, match=message):
        small_predictor.predict(**prompts)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), ValueError, "at least one pixel"),
        (np.zeros((5, 5, 2), np.uint8), ValueError, r"image must have shape .* got \(5, 5, 2\)"),
        (np.full((5, 5, 3), 256), ValueError, r"image of int64 must have values in \[0, 255\], got 256 to 256"),
        (np.full((5, 5, 3), -1, np.int8), ValueError, r"image of int8 must have values in \[0, 255\], got -1 to -1"),
        (np.zeros((5, 5, 3), bool), ValueError, "image must be of integers or floating-point numbers, got bool"),
        (np.zeros((5, 5, 3), complex), ValueError, "integers or floating-point numbers, got complex128"),
        (
            Image.fromarray(np.full((5, 5), 70000, np.int32)),
            ValueError,
            r"\[0, 255\] or \[0, 65535\].*; got 70000 to 70000",
        ),
        (torch.zeros(3, 5, 5), TypeError, "image"),
        (np.full((5, 5, 3), 255.0), ValueError, r"values in \[0, 1\], got 255.0"),
        (np.full((5, 5, 3), np.nan), ValueError, r"values in \[0, 1\], got nan"),
        ("photo.jpg", TypeError, "image"),
    ],
)
def test_bad_images_are_refused(small_predictor, image, error, message):
    with pytest.raises(error, match=message):
        SAM2ImagePredictor(small_predictor.model).set_image(image)


def test_calls_in_the_wrong_order_are_refused(small_predictor):
    predictor = SAM2ImagePredictor(small_predictor.model)
    with pytest.raises(RuntimeError, match="set_image"):
        predictor.predict(box=[1, 1, 2, 2])
    with pytest.raises(RuntimeError, match="set_image"):
        predictor.get_image_embedding()
    predictor.set_image(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(RuntimeError, match="set_image_batch"):
        predictor.predict_batch(box_batch=[[1, 1, 2, 2]])
    with pytest.raises(ValueError, match="image_list must be a list of at least one image"):
        predictor.set_image_batch([])
    predictor.set_image_batch([np.zeros((8, 8, 3), np.uint8)] * 2)
    with pytest.raises(ValueError, match="box_batch must have one entry for each of the 2 photos, got 1"):
        predictor.predict_batch(box_batch=[[1, 1, 2, 2]])
    predictor.reset_predictor()
    with pytest.raises(RuntimeError, match="set_image"):
        predictor.predict(box=[1, 1, 2, 2])
