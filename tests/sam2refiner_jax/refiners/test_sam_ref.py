"""SAM-REF against its independent reference, every parameter random; its blends, windows, selector and memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sam_ref as reference
import torch
from flax import nnx
from official import randomise, relative_error
from small import sam_ref_model, small_model

from sam2refiner_jax import SAM2ImagePredictor, SAM2VideoPredictor
from sam2refiner_jax.convert.naming import our_layout, torch_axes
from sam2refiner_jax.image.predictor import refine_prompts
from sam2refiner_jax.nn.mask_decoder import DecoderOutput
from sam2refiner_jax.nn.prompt_encoder import Prompts
from sam2refiner_jax.refiners import SAMRefConfig, build_refiner
from sam2refiner_jax.refiners.base import RefinerInputs
from sam2refiner_jax.refiners.fusion import blend
from sam2refiner_jax.refiners.sam_ref import Carry, Prepared
from sam2refiner_jax.refiners.windows import bounding_window, cut, largest_region, paste

SIZE, SIDE, DIM = 64, 16, 256
CONFIG = SAMRefConfig(width=8, blocks=3, click_radius=2.0)
# Slots as predictors pack them: two corners or clicks first, the padding point, empty ones.
FIRST_CLICK = [(20.0, 30.0, 1)]
CLICKS = [(20.0, 30.0, 1), (44.0, 50.0, 0)]
BOX = [(8.0, 10.0, 2), (50.0, 60.0, 3)]


def our_fusion(module: torch.nn.Module, ours: nnx.Module) -> None:
    tensors = {
        name.replace("norm1.weight", "norm1.scale").replace("norm2.weight", "norm2.scale"): value.numpy()
        for name, value in module.state_dict().items()
    }
    for path, variable in nnx.to_flat_state(nnx.state(ours)):
        name = ".".join(map(str, path))
        tensor = tensors[name.replace("kernel", "weight")]
        variable.set_value(our_layout(tensor, torch_axes(name, variable)))


def halve_errors(mirror) -> None:
    """Moves the global error map so that it names half of the pixels of a scene."""
    seen = []
    handle = mirror.whole.error_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    image, features, coarse, before = scene(0)
    points, labels = np.array(CLICKS)[:, :2], np.array(CLICKS)[:, 2].astype(int)
    image, features = (torch.tensor(x).permute(2, 0, 1) for x in (image, features))
    mirror(image, features, torch.tensor(coarse), points, labels, before, 0.0)
    handle.remove()
    with torch.no_grad():
        mirror.whole.error_head.bias -= seen[0].quantile(0.5)  # between the two in the middle


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    mirror = randomise(reference.SAMRefMirror(DIM, SIZE, CONFIG), 3).eval()
    halve_errors(mirror)
    ours = build_refiner(CONFIG, small_model().config, rngs=nnx.Rngs(0))
    our_fusion(mirror.whole, ours.whole)
    our_fusion(mirror.window, ours.window)
    return mirror, ours


def slots(clicks, count=6):
    points, labels = np.zeros((1, count, 2), np.float32), np.full((1, count), -2, np.int32)
    for i, (x, y, label) in enumerate(clicks):
        points[0, i], labels[0, i] = (x, y), label
    labels[0, len(clicks)] = -1
    return points, labels


def scene(seed):
    """An image, features, a coarse mask of one blob, and the refined mask of the click before, of a larger one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    coarse = (4 - 0.8 * np.hypot(x - 6 - seed % 3, y - 8)) + rng.normal(0, 0.3, (SIDE, SIDE))
    y, x = np.mgrid[:SIZE, :SIZE]
    before = 3 - 0.2 * np.hypot(x - 30, y - 34 + seed)
    image = rng.normal(0, 1, (SIZE, SIZE, 3))
    features = rng.normal(0, 0.3, (4, 4, DIM))
    return [a.astype(np.float32) for a in (image, features, coarse, before)]


def refine(ours, image, features, coarse, before, clicks, errors_before):
    points, labels = slots(clicks)
    image, features, coarse, before = (jnp.asarray(x)[None] for x in (image, features, coarse, before))
    prepared = Prepared(image, ours.whole.feature_proj(features), ours.window.feature_proj(features))
    nothing = jnp.zeros((1, 0, DIM))
    masks = jnp.tile(coarse[:, None], (1, 4, 1, 1))
    inputs = RefinerInputs(
        prepared=prepared,
        decoder=DecoderOutput(masks, jnp.ones((1, 4)), jnp.ones((1, 1)), nothing, features, features),
        masks=coarse,
        prompts=Prompts(points, labels, jnp.zeros((1, SIDE, SIDE)), jnp.zeros(1, bool)),
        sparse=nothing,
        sparse_mask=jnp.zeros((1, 0), bool),
        image_pe=features[0],
        carry=Carry(before, jnp.full(1, errors_before)),
    )
    return ours(inputs)


@pytest.mark.parametrize(
    ("clicks", "is_first", "errors_before"),
    [
        (FIRST_CLICK, True, -1.0),
        (BOX, True, -1.0),
        (CLICKS, False, 1e9),  # the error has not grown: onto the mask of this click
        (CLICKS, False, 0.0),  # it has: onto the one before
        ([*BOX, *CLICKS], False, 40.0),
    ],
    ids=["first_click", "box", "less_wrong", "more_wrong", "box_and_clicks"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_masks_equal_the_reference(pair, clicks, is_first, errors_before, seed):
    mirror, ours = pair
    image, features, coarse, before = scene(seed)
    if is_first:
        before = np.full_like(before, -10.0)
    result = refine(ours, image, features, coarse, before, clicks, errors_before)
    points, labels = np.array(clicks)[:, :2], np.array(clicks)[:, 2].astype(int)
    expected, count, window = mirror(
        torch.tensor(image).permute(2, 0, 1),
        torch.tensor(features).permute(2, 0, 1),
        torch.tensor(coarse),
        points,
        labels,
        before,
        errors_before,
    )
    np.testing.assert_allclose(result.blends[1].window[0], window, atol=1e-6)
    assert 0 < count < SIDE * SIDE
    assert result.carry.errors[0] == count
    assert relative_error(result.masks[0], expected) <= 1e-5
    np.testing.assert_array_equal(result.carry.mask, result.masks)


def test_a_blend_is_one_mask_or_the_other():
    detail, coarse = jnp.asarray(np.random.default_rng(0).normal(0, 5, (2, 1, 8, 8)), jnp.float32)
    np.testing.assert_array_equal(blend(jnp.full((1, 8, 8), -np.inf), detail, coarse), coarse)
    np.testing.assert_array_equal(blend(jnp.full((1, 8, 8), np.inf), detail, coarse), detail)
    np.testing.assert_allclose(blend(jnp.zeros((1, 8, 8)), detail, coarse), (detail + coarse) / 2, rtol=1e-6)


def test_the_selector_turns_at_its_ratio(pair):
    """R_e just under and just over 1.1: what is outside of the window is of this click, or of the one before."""
    ours = pair[1]
    image, features, coarse, before = scene(0)
    errors = float(refine(ours, image, features, coarse, before, CLICKS, 1e9).carry.errors[0])
    for ratio, keeps in ((1.1 - 1e-3, False), (1.1 + 1e-3, True)):
        result = refine(ours, image, features, coarse, before, CLICKS, errors / ratio)
        x0, y0, x1, y1 = np.asarray(result.blends[1].window[0]) * SIZE
        y, x = np.mgrid[:SIZE, :SIZE] + 0.5
        outside = (x < x0) | (x > x1) | (y < y0) | (y > y1)
        assert outside.any()
        assert np.array_equal(np.asarray(result.masks[0])[outside], before[outside]) == keeps
    # Nothing was wrong before: no ratio, but anything is more.
    assert errors > 0
    result = refine(ours, image, features, coarse, before, CLICKS, 0.0)
    assert (np.asarray(result.masks[0]) == before).any()


def test_the_largest_region_is_found():
    rng = np.random.default_rng(0)
    masks = rng.random((6, 20, 20)) < np.array([0.1, 0.3, 0.4, 0.5, 0.0, 1.0])[:, None, None]
    spiral = np.zeros((20, 20), bool)  # a region through which numbers travel for long
    for i in range(0, 20, 4):
        spiral[i], spiral[min(i + 2, 19)] = True, True
        spiral[i : i + 3, -1 if i % 8 else 0] = True
    masks = np.concatenate([masks, spiral[None]])
    found = np.asarray(jax.jit(largest_region)(masks))
    for mask, region in zip(masks, found, strict=True):
        np.testing.assert_array_equal(region, reference.largest_region(mask) if mask.any() else mask)
    for mask, window in zip(masks, np.asarray(bounding_window(jnp.asarray(masks))), strict=True):
        np.testing.assert_allclose(window, reference.bounds(mask) if mask.any() else (0, 0, 1, 1))


def test_what_is_cut_is_pasted_where_it_was():
    """Against loops over pixels; and of a smooth picture nothing is lost on the way."""
    rng = np.random.default_rng(0)
    windows = jnp.array([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0], [0.5, 0.4, 0.62, 0.5]])
    images = jnp.asarray(rng.normal(0, 1, (3, 40, 40, 2)), jnp.float32)
    pieces = cut(images, windows, 16)
    pasted = paste(pieces[..., 0], windows, images[..., 1])
    for image, window, piece, result in zip(*map(np.asarray, (images, windows, pieces, pasted)), strict=True):
        expected = reference.cut(image.transpose(2, 0, 1), window.astype(np.float64), 16)
        np.testing.assert_allclose(piece.transpose(2, 0, 1), expected, atol=1e-5)
        np.testing.assert_allclose(
            result, reference.paste(piece[..., 0], window.astype(np.float64), image[..., 1]), atol=1e-5
        )
    y, x = np.mgrid[:40, :40] / 40
    smooth = jnp.tile(jnp.asarray(np.sin(3 * x) + y, jnp.float32), (3, 1, 1))
    again = paste(cut(smooth[..., None], windows, 40)[..., 0], windows, smooth)
    np.testing.assert_allclose(again, smooth, atol=0.02)


@pytest.fixture(scope="module")
def model():
    return sam_ref_model()


PHOTO = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def predict(predictor, *clicks, **options):
    points = np.array(clicks)
    return predictor.predict(points[:, :2], points[:, 2], multimask_output=False, return_logits=True, **options)[0]


def test_photos_remember_the_clicks_before(model):
    """The mask of two clicks depends on whether the first was asked for; asking again, or after another, does not."""
    one, two, other = (20, 30, 1), (44, 10, 0), (50, 40, 1)
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(PHOTO)
    at_once = predict(predictor, one, two)
    predictor.set_image(PHOTO)
    first = predict(predictor, one)
    after_one = predict(predictor, one, two)
    assert np.abs(after_one - at_once).max() > 1e-3
    compiled = refine_prompts._cache_size()
    np.testing.assert_array_equal(predict(predictor, one, two), after_one)  # the same again
    after_other = predict(predictor, one, other)  # the last click taken back
    assert np.abs(after_other - after_one).max() > 1e-3
    np.testing.assert_array_equal(predict(predictor, one, two), after_one)
    np.testing.assert_array_equal(predict(predictor, one), first)  # a new conversation
    np.testing.assert_array_equal(predict(predictor, two), predict(predictor, two))
    assert refine_prompts._cache_size() == compiled
    off, plain = (SAM2ImagePredictor(m) for m in (model, model.with_refiner(None)))
    for each in (off, plain):
        each.set_image(PHOTO)
    np.testing.assert_array_equal(predict(off, one, two, refine=False), predict(plain, one, two))


def test_objects_of_a_batch_keep_their_own(model):
    predictor = SAM2ImagePredictor(model)
    options = {"multimask_output": False, "return_logits": True}

    def both(points, labels):
        return predictor.predict(np.array(points), np.array(labels), **options)[0][:, 0]

    predictor.set_image(PHOTO)
    both([[[20, 30]], [[40, 20]]], [[1], [1]])
    together = both([[[20, 30], [44, 10]], [[40, 20], [5, 5]]], [[1, 0], [1, 0]])
    for row, clicks in enumerate(([(20, 30, 1), (44, 10, 0)], [(40, 20, 1), (5, 5, 0)])):
        predictor.set_image(PHOTO)
        predict(predictor, clicks[0])
        np.testing.assert_allclose(together[row], predict(predictor, *clicks)[0], atol=1e-4)


def test_videos_remember_by_object_and_frame(model):
    frames = [np.roll(PHOTO, 2 * i, axis=1) for i in range(4)]
    predictor = SAM2VideoPredictor(model)

    def click(state, frame, *clicks, obj=1, **options):
        points = np.array(clicks, np.float32)
        return predictor.add_new_points_or_box(state, frame, obj, points[:, :2], points[:, 2].astype(int), **options)[2]

    state = predictor.init_state(frames)
    click(state, 0, (20, 30, 1))
    added = click(state, 0, (44, 10, 0), clear_old_points=False)
    other = predictor.init_state(frames)
    click(other, 0, (20, 30, 1))
    click(other, 0, (20, 20, 1), obj=2)  # another object's clicks are its own
    np.testing.assert_array_equal(click(other, 0, (20, 30, 1), (44, 10, 0))[:1], added)  # all clicks given again
    tracked = {frame: logits for frame, _, logits in predictor.propagate_in_video(state)}
    assert list(tracked) == [0, 1, 2, 3]
    assert np.isfinite(np.stack(list(tracked.values()))).all()
    corrected = click(state, 2, (10, 10, 0))  # goes on from the tracked mask
    assert np.abs(corrected - tracked[2]).max() > 1e-3


def test_bad_settings():
    with pytest.raises(ValueError, match="selector must be one of dynamic, global, previous, got 'best'"):
        SAMRefConfig(selector="best")
    with pytest.raises(ValueError, match="blocks and stride must be at least 1, got 0 and 4"):
        dataclasses.replace(CONFIG, blocks=0)
