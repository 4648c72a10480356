"""Refined masks through the predictor, refiner checkpoints, and a refiner that somebody else wrote."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import RESIDUAL, SMALL, fresh_refining_model, refining_model, small_model

from sam2refiner_jax import (
    PRESETS,
    CheckpointError,
    SAM2ImagePredictor,
    SAM2RefinerConfig,
    build_model,
    load_model,
    load_refiner,
    save_model,
    save_refiner,
)
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.predictor import refine_prompts
from sam2refiner_jax.nn.layers import conv
from sam2refiner_jax.nn.resize import resize_bilinear
from sam2refiner_jax.refiners import REFINERS, Refined, Refiner, register_refiner

SIZE = SMALL.image_size
PROMPT = {"point_coords": [[30, 40]], "point_labels": [1]}


@pytest.fixture(scope="module")
def model():
    return refining_model()


def test_base_is_the_same_with_and_without_a_refiner(model, wide_photo):
    plain = SAM2ImagePredictor(small_model())
    refined = SAM2ImagePredictor(model)
    for predictor in (plain, refined):
        predictor.set_image(wide_photo)
    expected, results = (p.predict(**PROMPT, return_logits=True, refine=False) for p in (plain, refined))
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))  # the encoder's batch differs
    with pytest.raises(ValueError, match="refine must be False for a model without a refiner"):
        plain.predict(**PROMPT, refine=True)


def test_refined_masks_have_the_photos_size(model, wide_photo, tall_photo):
    predictor = SAM2ImagePredictor(model)
    predictor.set_image_batch([wide_photo, tall_photo])
    boxes = [np.array([[10, 10, 100, 90], [50, 60, 200, 250]]), np.array([20, 20, 120, 200])]
    masks, ious, low_res = predictor.predict_batch(box_batch=boxes, return_logits=True)
    assert masks[0].shape == (2, 1, *wide_photo.shape[:2])
    assert masks[1].shape == (1, *tall_photo.shape[:2])
    assert low_res[0].shape == (2, 1, SIZE // 4, SIZE // 4)
    assert ious[0].shape == (2, 1)
    predictor.set_image(tall_photo)
    alone = predictor.predict(box=boxes[1], return_logits=True)
    np.testing.assert_allclose(alone[0], masks[1], atol=1e-4 * np.abs(masks[1]).max())


def test_residual_refiner_returns_the_chosen_mask(wide_photo):
    """A fresh refiner that adds to the coarse mask: what comes out is the very mask that plain SAM 2 would choose."""
    predictor = SAM2ImagePredictor(fresh_refining_model())
    predictor.set_image(wide_photo)
    for multimask in (True, False):
        _, ious, coarse = predictor.predict(**PROMPT, multimask_output=multimask, refine=False)
        logits, iou, low_res = predictor.predict(**PROMPT, multimask_output=multimask, return_logits=True)
        best = int(ious.argmax())
        np.testing.assert_allclose(low_res[0], coarse[best], atol=1e-5)
        np.testing.assert_allclose(iou[0], ious[best], atol=1e-6)
        upsampled = resize_bilinear(coarse[best][None, ..., None], (SIZE, SIZE))
        expected = resize_bilinear(upsampled, wide_photo.shape[:2])[0, ..., 0]
        np.testing.assert_allclose(logits[0], expected, atol=1e-4)


def test_one_compilation(model, wide_photo, tall_photo):
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(wide_photo)
    predictor.predict(**PROMPT)
    compiled = encode_photos._cache_size(), refine_prompts._cache_size()
    predictor.set_image(tall_photo)
    predictor.predict([[3, 4], [9, 80]], [1, 0], [1, 2, 90, 80], multimask_output=False)
    predictor.predict(mask_input=np.zeros((1, SIZE // 4, SIZE // 4)))
    assert (encode_photos._cache_size(), refine_prompts._cache_size()) == compiled


def test_views_of_the_source_keep_its_detail():
    """Stripes one pixel wide vanish when the photo is squeezed to the input, but not in its quarters."""
    photo = np.zeros((2 * SIZE, 2 * SIZE, 3), np.uint8)
    photo[:, ::2] = 255
    pooled = {}
    for views in ("input", "source"):
        model = build_model("small", refiner=SAM2RefinerConfig(residual_mask=True, views=views))
        predictor = SAM2ImagePredictor(model)
        predictor.set_image(photo)
        pooled[views] = np.asarray(predictor._photos.features.refiner.pooled[0])
    assert pooled["input"].shape == pooled["source"].shape
    assert np.abs(pooled["input"] - pooled["source"]).max() > 1e-3


def test_checkpoints(model, wide_photo, tmp_path):
    save_model(model, tmp_path / "both")
    save_model(model.with_refiner(None), tmp_path / "base")
    save_refiner(model, tmp_path / "refiner")
    size = sum(f.stat().st_size for f in (tmp_path / "refiner").rglob("*") if f.is_file())
    assert size < 20e6
    for source, refiner in (("built", None), ("both", None), ("base", tmp_path / "refiner")):
        predictor = SAM2ImagePredictor(model if source == "built" else load_model(tmp_path / source, refiner=refiner))
        predictor.set_image(wide_photo)
        logits = predictor.predict(**PROMPT, return_logits=True)[0]
        compiled = encode_photos._cache_size(), refine_prompts._cache_size()
        if source == "built":
            expected = logits, compiled
        np.testing.assert_array_equal(logits, expected[0])
        assert compiled == expected[1]  # models that were loaded run what was compiled for others
    assert load_model(tmp_path / "base").refiner is None
    half = load_model(tmp_path / "both", dtype=jnp.bfloat16)
    assert half.refiner.mask_refinement.out.kernel[...].dtype == jnp.bfloat16


def test_a_refiner_attaches_to_models_of_its_size_only(model, tmp_path):
    save_refiner(model, tmp_path / "refiner")
    assert load_refiner(tmp_path / "refiner", dataclasses.replace(SMALL, image_size=1024)).config == RESIDUAL
    message = r"it needs stage_dims \(32, 64, 128, 256\), the model has \(112, 224, 448, 896\)"
    with pytest.raises(CheckpointError, match=message):
        load_refiner(tmp_path / "refiner", PRESETS["sam2.1_hiera_b+"])


def test_bad_refiner_checkpoints(model, tmp_path):
    save_model(model.with_refiner(None), tmp_path / "base")
    with pytest.raises(CheckpointError, match="does not describe a refiner"):
        load_model(tmp_path / "base", refiner=tmp_path / "base")
    with pytest.raises(CheckpointError, match="is not a refiner configuration"):
        load_model(tmp_path / "base", refiner=tmp_path / "nothing")
    save_refiner(model, tmp_path / "refiner")
    config = json.loads((tmp_path / "refiner" / "config.json").read_text())
    config["refiner"]["kind"] = "hq"
    (tmp_path / "refiner" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="refiner must be one of hq_sam2, sam2refiner, sam_ref, got 'hq'"):
        load_model(tmp_path / "base", refiner=tmp_path / "refiner")
    with pytest.raises(ValueError, match="the model has no refiner to save"):
        save_refiner(model.with_refiner(None), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def edge_refiner():
    """The example of CONTRIBUTING.md."""

    @dataclasses.dataclass(frozen=True)
    class EdgeRefinerConfig:
        hidden: int = 8

    @register_refiner("edge", EdgeRefinerConfig)
    class EdgeRefiner(Refiner):
        """Adds a convolution of the image's colours to the upsampled mask."""

        def __init__(self, config, base, *, dtype, rngs):
            super().__init__(config, base, dtype=dtype, rngs=rngs)
            self.conv = conv(4, config.hidden, 3, padding=1, dtype=dtype, rngs=rngs)
            self.out = conv(config.hidden, 1, 1, dtype=dtype, rngs=rngs)

        def prepare(self, images, features, views):
            return images

        def __call__(self, inputs):
            image = inputs.prepared
            coarse = resize_bilinear(inputs.masks[..., None], image.shape[1:3])
            hidden = jax.nn.gelu(self.conv(jnp.concatenate([image, coarse.astype(image.dtype)], axis=-1)))
            return Refined((coarse + self.out(hidden))[..., 0])

    yield EdgeRefiner
    del REFINERS["edge"]


def test_somebody_elses_refiner(edge_refiner, wide_photo, tmp_path):
    model = build_model("small", refiner="edge")
    save_model(model, tmp_path / "both")
    loaded = load_model(tmp_path / "both")
    assert isinstance(loaded.refiner, edge_refiner)
    assert sum(x.size for x in jax.tree.leaves(nnx.state(loaded.refiner))) == 4 * 8 * 9 + 8 + 8 + 1
    predictor = SAM2ImagePredictor(loaded)
    predictor.set_image(wide_photo)
    mask, _, _ = predictor.predict(**PROMPT)
    assert mask.shape == (1, *wide_photo.shape[:2])
