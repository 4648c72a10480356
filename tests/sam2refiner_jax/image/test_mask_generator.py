"""Masks of all that is in a photo: the official generator's, and what it does not have."""

import jax
import numpy as np
import pytest
import torch
from official import batched_nms, build_official, official_mask_generator, ours_of_few_blocks, randomise
from scenes import scene
from small import hq_model, refining_model, small_model

from sam2refiner_jax import SAM2AutomaticMaskGenerator, SAM2ImagePredictor
from sam2refiner_jax.image import mask_measures
from sam2refiner_jax.image.boxes import corners_of
from sam2refiner_jax.image.crops import crops_of, point_grid
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.mask_measures import Grid, draw_masks, measure_masks, without_duplicates
from sam2refiner_jax.image.predictor import decode_prompts

SIZE = 128
# Of random weights: a high threshold makes masks of their own boxes, the others are such that some pass them.
ALL = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.1}
SOME = {"mask_threshold": 0.7, "stability_score_offset": 0.05, "points_per_side": 5, "points_per_batch": 8}
SOME |= {"box_nms_thresh": 0.95}


@pytest.fixture(scope="module")
def both():
    layers = {"memory_attention.num_layers": 4}  # as many random numbers as those that the thresholds were chosen for
    official = randomise(build_official("sam2.1_hiera_t", few_blocks=True, image_size=SIZE, **layers))
    with torch.no_grad():
        official.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return official, ours_of_few_blocks(official, "sam2.1_hiera_t", SIZE)


def thresholds_for(generator, photo):
    """Between the values of the masks of the photo, so that some of them pass."""
    between = {}
    masks = generator.generate(photo)
    for name, key in (("pred_iou_thresh", "predicted_iou"), ("stability_score_thresh", "stability_score")):
        values = np.sort([mask[key] for mask in masks])
        first = len(values) // 5
        place = first + int(np.diff(values)[first : first + max(1, len(values) // 4)].argmax())
        between[name] = float(values[place : place + 2].mean())
    return between


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.9},
        {"use_m2m": True},
        {"multimask_output": False, "points_per_side": None, "point_grids": [np.random.default_rng(0).random((20, 2))]},
    ],
    ids=["default", "crops", "m2m", "single"],
)
def test_masks_equal_the_official_ones(both, photo, settings):
    photo = np.ascontiguousarray(photo[::6, ::6])
    settings = SOME | settings
    settings |= thresholds_for(SAM2AutomaticMaskGenerator(both[1], **(settings | ALL)), photo)
    theirs = official_mask_generator(both[0], **settings).generate(photo)
    ours = SAM2AutomaticMaskGenerator(both[1], **settings).generate(photo)
    assert len(ours) == len(theirs) >= 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert (mine["segmentation"] == other["segmentation"]).mean() >= 0.9999
        assert np.abs(np.subtract(mine["bbox"], other["bbox"])).max() <= 1
        assert mine["area"] == pytest.approx(other["area"], abs=3)
        assert mine["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-4)
        assert mine["stability_score"] == pytest.approx(other["stability_score"], abs=5e-4)
        assert mine["crop_box"] == other["crop_box"]
        np.testing.assert_allclose(mine["point_coords"], other["point_coords"], atol=1e-4)


def test_what_is_given_is_of_the_kinds_of_the_official_generator(both, photo):
    settings = SOME | ALL | {"points_per_side": 1, "pred_iou_thresh": 0.0}
    photo = np.ascontiguousarray(photo[::6, ::6])
    theirs, ours = official_mask_generator(both[0], **settings), SAM2AutomaticMaskGenerator(both[1], **settings)
    mine, other = ours.generate(photo)[0], theirs.generate(photo)[0]
    assert {name: type(value) for name, value in mine.items()} == {name: type(v) for name, v in other.items()}
    assert mine["segmentation"].dtype == other["segmentation"].dtype
    assert all(type(value) is float for value in [*mine["bbox"], *mine["crop_box"], *mine["point_coords"][0]])


def test_crops_and_points_are_the_official_ones():
    from sam2.utils.amg import build_point_grid, generate_crop_boxes

    for height, width, layers, overlap in ((480, 640, 2, 512 / 1500), (101, 57, 1, 0.2), (64, 64, 0, 0.5)):
        boxes, numbers = generate_crop_boxes((height, width), layers, overlap)
        crops = crops_of(height, width, layers, overlap)
        assert ([list(crop.box) for crop in crops], [crop.layer for crop in crops]) == (boxes, numbers)
    np.testing.assert_allclose(point_grid(7), build_point_grid(7), atol=1e-12)


def test_duplicates_are_those_of_one_box_after_the_other():
    rng = np.random.default_rng(0)
    for count in (0, 1, 40):
        boxes = np.zeros((64, 4), np.float32)
        boxes[:count, :2] = rng.integers(0, 20, (count, 2))
        boxes[:count, 2:] = boxes[:count, :2] + rng.integers(0, 30, (count, 2))
        scores = rng.integers(0, 5, 64).astype(np.float32)  # many equal ones
        order, stays = without_duplicates(boxes, scores, np.arange(64) < count, 0.4)
        expected = batched_nms(torch.tensor(boxes[:count]), torch.tensor(scores[:count]), None, 0.4)
        assert np.asarray(order)[np.asarray(stays)].tolist() == expected.tolist()


def test_measures_are_the_same_on_accelerators(monkeypatch):
    """Their programs, run here: of crops of several sizes, an empty mask and one that fills its photo."""
    rng = np.random.default_rng(0)
    masks = np.stack([*rng.normal(0, 3, (3, 16, 16)), np.full((16, 16), -5.0), np.full((16, 16), 5.0)])
    masks = jax.numpy.asarray(masks, np.float32)
    for size, whole in (((40, 60), (40, 60)), ((23, 60), (700, 90)), ((700, 5), (700, 90))):
        grid = Grid(size, whole)
        expected, drawn = measure_masks(masks, 5, grid, 0.25, 0.5), draw_masks(masks, 5, grid, 0.25)
        with monkeypatch.context() as patch:
            patch.setattr(mask_measures, "_on_host", lambda: False)
            found, packed = measure_masks(masks, 5, grid, 0.25, 0.5), draw_masks(masks, 5, grid, 0.25)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_allclose(found.stability, expected.stability, atol=2e-3)
        pixels = [np.unpackbits(x, axis=-1)[:, : size[0], : size[1]] for x in (packed, drawn)]
        assert (pixels[0] == pixels[1]).mean() >= 0.9999
        assert np.unpackbits(packed).sum() == pixels[0].sum()  # nothing beyond the photo
        assert tuple(found.boxes[3]) == (0, 0, 0, 0)
        assert tuple(found.boxes[4]) == corners_of(np.ones(size, bool))
        assert np.isnan(found.stability[3])


@pytest.fixture(scope="module")
def image():
    return scene(0)[0]


def test_forms_of_masks_come_back(image):
    from pycocotools import mask as coco
    from sam2.utils.amg import rle_to_mask

    settings = {"points_per_side": 2, **ALL}
    modes = ("binary_mask", "uncompressed_rle", "coco_rle")
    generators = [SAM2AutomaticMaskGenerator(small_model(), output_mode=mode, **settings) for mode in modes]
    for mask, lengths, compressed in zip(*(g.generate(image) for g in generators), strict=True):
        assert mask["area"] == mask["segmentation"].sum() > 0
        np.testing.assert_array_equal(rle_to_mask(lengths["segmentation"]), mask["segmentation"])
        np.testing.assert_array_equal(coco.decode(compressed["segmentation"]), mask["segmentation"])


@pytest.mark.parametrize(("model", "use_m2m"), [(refining_model, True), (hq_model, False)])
def test_masks_that_are_given_are_refined(model, use_m2m, image):
    """As by the predictor, of the best of a point's three masks."""
    grid = np.array([[0.4, 0.6], [0.8, 0.3]])
    generator = SAM2AutomaticMaskGenerator(model(), points_per_side=None, point_grids=[grid], use_m2m=use_m2m, **ALL)
    masks = generator.generate(image)
    predictor = SAM2ImagePredictor(model())
    predictor.set_image(image)
    for point in grid * (image.shape[1], image.shape[0]):
        asked = {"point_coords": point[None], "point_labels": [1]}
        _, _, low_res = predictor.predict(**asked, refine=False)
        found = [mask for mask in masks if np.allclose(mask["point_coords"], point)]
        assert len(found) == 3
        if use_m2m:
            expected = [
                predictor.predict(**asked, mask_input=each[None], multimask_output=False)[0][0] for each in low_res
            ]
        else:
            expected = predictor.predict(**asked)[0]
        for mask in expected:
            assert max((mask.astype(bool) == each["segmentation"]).mean() for each in found) >= 0.999
        for each in found:
            assert each["bbox"][:2] == list(corners_of(each["segmentation"]))[:2]
    plain = SAM2AutomaticMaskGenerator(
        model(), points_per_side=None, point_grids=[grid], use_m2m=use_m2m, refine=False, **ALL
    ).generate(image)
    assert not all(np.array_equal(a["segmentation"], b["segmentation"]) for a, b in zip(plain, masks, strict=True))


def test_holes_and_specks_go_before_masks_are_measured(image):
    settings = {"points_per_side": 3, "stability_score_offset": 0.1, **ALL}
    plain = SAM2AutomaticMaskGenerator(small_model(), **settings).generate(image)
    clean = SAM2AutomaticMaskGenerator(small_model(), min_mask_region_area=40, **settings).generate(image)
    predictor = SAM2ImagePredictor(small_model(), max_hole_area=40.0, max_sprinkle_area=40.0)
    predictor.set_image(image)
    areas = []
    for mask in clean:
        masks, *_ = predictor.predict(mask["point_coords"], [1])
        areas.append(min(abs(mask["area"] - each.sum()) for each in masks))
    assert max(areas) == 0
    assert sorted(mask["area"] for mask in plain) != sorted(mask["area"] for mask in clean)


def test_nothing_is_compiled_for_another_photo(image):
    generator = SAM2AutomaticMaskGenerator(small_model(), points_per_side=3, crop_n_layers=1, use_m2m=True, **ALL)
    programs = (encode_photos, decode_prompts, without_duplicates)
    generator.generate(image)
    compiled = [program._cache_size() for program in programs]
    generator.generate(np.ascontiguousarray(image[:, ::2]))
    assert [program._cache_size() for program in programs] == compiled


def test_features_that_are_there_give_the_same_masks(image):
    generator = SAM2AutomaticMaskGenerator(small_model(), points_per_side=3, **ALL)
    predictor = SAM2ImagePredictor(small_model())
    with pytest.raises(RuntimeError, match="must be set"):
        _ = predictor.features
    predictor.set_image(image)
    found = generator.generate_from(predictor.features, image.shape[:2])
    expected = generator.generate(image)
    assert len(found) == len(expected) == 27
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.pop("segmentation"), other.pop("segmentation"))
        assert mine == other
    crops = SAM2AutomaticMaskGenerator(small_model(), points_per_side=3, crop_n_layers=1)
    with pytest.raises(ValueError, match="crop_n_layers must be 0 where features are given, got 1"):
        crops.generate_from(predictor.features, image.shape[:2])


def test_a_photo_without_masks_has_none(image):
    generator = SAM2AutomaticMaskGenerator(small_model(), points_per_side=2, crop_n_layers=1, pred_iou_thresh=1.0)
    assert generator.generate(image) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point_grids": [np.zeros((1, 2))]}, "either points_per_side or point_grids"),
        ({"points_per_side": None}, "either points_per_side or point_grids"),
        ({"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1}, "each of 2 layers, got 1"),
        (
            {"points_per_side": 2, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            r"a point in each.*\[2, 1, 0",
        ),
        ({"output_mode": "png"}, "binary_mask, uncompressed_rle, coco_rle, got 'png'"),
        ({"points_per_batch": 0}, "points_per_batch must be at least 1"),
        ({"refine": True}, "refine must be False for a model without a refiner"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments, message):
    with pytest.raises(ValueError, match=message):
        SAM2AutomaticMaskGenerator(small_model(), **arguments)
