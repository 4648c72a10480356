"""The refiner against the independent PyTorch one, every parameter random; its geometry; its gradients."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from official import nchw, relative_error, to_torch
from refiner import TorchRefiner
from small import small_model

from sam2refiner_jax import SAM2RefinerConfig, build_model, save_refiner
from sam2refiner_jax.checkpoints import model_from_weights, weights_of
from sam2refiner_jax.convert import export_refiner
from sam2refiner_jax.image.prompts import pack_prompts, read_prompts
from sam2refiner_jax.nn.positional import sine_encoding_of_cells
from sam2refiner_jax.nn.resize import resize_bilinear
from sam2refiner_jax.refiners import build_refiner
from sam2refiner_jax.refiners.base import cut_views
from sam2refiner_jax.refiners.localization_augment import QUARTERS, assemble_quarters, average_pool
from sam2refiner_jax.refiners.prompt_retargeting import draw_clicks

SIZE = 128
CLICKS = [(40.0, 70.0, 1), (90.0, 20.0, 0)]
COMBINATIONS = [
    dict(zip(("localization_augment", "prompt_retargeting", "mask_refinement"), on, strict=True))
    for on in itertools.product((False, True), repeat=3)
]


@pytest.fixture(scope="module")
def base():
    """The small model, at an input size where the coarsest pooling leaves a few cells."""
    config = dataclasses.replace(small_model().config, image_size=SIZE)
    return model_from_weights(config, weights_of(small_model()))


@pytest.fixture(scope="module")
def image(photo):
    return np.ascontiguousarray(photo[200 : 200 + SIZE, 300 : 300 + SIZE][None].astype(np.float32) / 64 - 2)


@pytest.fixture(scope="module")
def prompts():
    points = np.array(CLICKS, np.float32)
    sizes = {"photo_size": (SIZE, SIZE), "image_size": SIZE}
    return pack_prompts([read_prompts(points[:, :2], points[:, 2], [10, 12, 100, 90], None, **sizes)], SIZE // 4)


def with_random_refiner(base, config):
    refiner = build_refiner(config, base.config, rngs=nnx.Rngs(0))
    graph, state = nnx.split(refiner)
    leaves, tree = jax.tree.flatten(state)
    rng = np.random.default_rng(1)  # noise on every parameter, so that none is zero or one
    noisy = [np.asarray(x) + rng.normal(0, 0.2 if x.ndim == 1 else 0.03, x.shape).astype(np.float32) for x in leaves]
    return base.with_refiner(nnx.merge(graph, jax.tree.unflatten(tree, noisy)))


@pytest.fixture(scope="module")
def encoded(base, image):
    """Features of the image, and of its quarters."""
    return jax.jit(lambda model, x: model.encode_views(x))(with_random_refiner(base, SAM2RefinerConfig()), image)


# The refiner apart from what it stands around, so that the encoder and the decoder compile once for all refiners.
@jax.jit
def prepare(model, image, plain, views):
    features = model.prepare(image, plain, views)
    g = model.image_embedding(features)
    return features, g, model.augment(g, features)


@jax.jit
def decode(base, augmented, plain, prompts):
    encoder = base.sam_prompt_encoder
    return base.decode(augmented, plain, prompts), *encoder(prompts)[:2], encoder.image_encoding()


@jax.jit
def refine(model, features, output, prompts):
    return model.refine(features, output, output.masks[:, 0], prompts)


def run(model, image, encoded, prompts):
    """All that goes into the refiner and comes out of it."""
    plain, views = encoded
    views = views[:, : len(model.refiner.view_boxes)]
    features, g, augmented = prepare(model, image, plain, views)
    output, sparse, exists, image_pe = decode(model.with_refiner(None), augmented, plain.without_stages(), prompts)
    return plain, views, g, augmented, output, sparse, exists, image_pe, refine(model, features, output, prompts)


@pytest.mark.parametrize(
    ("parts", "residual"), [*((parts, False) for parts in COMBINATIONS), (COMBINATIONS[-1], True)], ids=str
)
def test_equals_pytorch(parts, residual, base, image, encoded, prompts, tmp_path):
    config = SAM2RefinerConfig(**parts, residual_mask=residual)
    model = with_random_refiner(base, config)
    mirror = TorchRefiner(config, 256, base.config.trunk.stage_dims[:3])
    if any(parts.values()):
        save_refiner(model, tmp_path / "refiner")
        export_refiner(tmp_path / "refiner", tmp_path / "refiner.pt")
        stored = torch.load(tmp_path / "refiner.pt", weights_only=True)
        assert stored["config"]["residual_mask"] == residual
        mirror.load_state_dict(stored["model"], strict=True)
    else:
        with pytest.raises(ValueError, match="no parameters to save"):
            save_refiner(model, tmp_path / "refiner")

    plain, views, g, augmented, output, sparse, exists, image_pe, refined = run(model, image, encoded, prompts)
    with torch.no_grad():
        expected = mirror.augment(to_torch(g), [to_torch(views[:, i]) for i in range(views.shape[1])])
        masks, auxiliary = mirror(
            to_torch(output.image),
            torch.from_numpy(np.array(output.masks[:, 0])),
            CLICKS,
            torch.from_numpy(np.array(output.output_tokens)),
            torch.from_numpy(np.array(sparse[:, np.asarray(exists)[0]])),
            to_torch(image_pe[None]),
            [to_torch(stage) for stage in plain.stages[:3]],
            to_torch(image),
        )
    assert relative_error(nchw(augmented), expected.numpy()) <= 1e-5
    assert relative_error(refined.masks, masks.numpy()) <= 1e-5
    assert refined.masks.shape == (1, SIZE, SIZE)
    assert len(refined.auxiliary) == len(auxiliary) == 3 * parts["mask_refinement"]
    for ours, theirs in zip(refined.auxiliary, auxiliary, strict=True):
        assert relative_error(ours, theirs.numpy()) <= 1e-5
    # The reference would not notice if a part did nothing.
    assert np.array_equal(augmented, g) == (not parts["localization_augment"])


def test_a_fresh_refiner_starts_from_sam2(base, image, encoded, prompts):
    refiner = build_refiner(SAM2RefinerConfig(residual_mask=True), base.config, rngs=nnx.Rngs(0))
    _, _, g, augmented, output, *_, refined = run(base.with_refiner(refiner), image, encoded, prompts)
    np.testing.assert_array_equal(augmented, g)
    upsampled = jax.jit(lambda x: resize_bilinear(x[..., None], (SIZE, SIZE))[..., 0])(output.masks[:, 0])
    np.testing.assert_allclose(refined.masks, upsampled, rtol=0, atol=1e-6 * float(jnp.abs(upsampled).max()))


def test_quarters_are_put_back_in_their_places():
    """Each 8x8 block of the image has a value of its own, which a stand-in for the encoder hands through."""
    blocks = np.arange(16 * 16, dtype=np.float32).reshape(16, 16)
    image = np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)[None, :, :, None] * np.ones(3, np.float32)
    views = cut_views(jnp.asarray(image), QUARTERS)
    encoded = views.reshape(4, 8, 16, 8, 16, 3)[:, :, 8, :, 8][None]  # the middle of each 16x16 cell
    whole = assemble_quarters(encoded)
    np.testing.assert_allclose(whole[0, :, :, 0], blocks, atol=1e-4)
    pooled = average_pool(whole, 4)[0, :, :, 1]
    np.testing.assert_allclose(pooled, blocks.reshape(4, 4, 4, 4).mean(axis=(1, 3)), atol=1e-4)


@pytest.mark.parametrize("x", [0, 411, 1279])
@pytest.mark.parametrize("y", [0, 300, 719])
def test_a_click_lights_its_place(x, y):
    box = [100, 100, 900, 600]
    prompts = read_prompts([[x, y], [640, 360]], [1, 0], box, None, photo_size=(720, 1280), image_size=1024)
    radius = 5.0
    maps = np.asarray(draw_clicks(prompts.points, prompts.labels, image_size=1024, side=256, radius=radius))[0]
    rows, columns = np.nonzero(maps[..., 0])
    expected = np.array([x, y]) / [1280, 720] * 256
    assert maps[min(int(expected[1]), 255), min(int(expected[0]), 255), 0] == 1
    far = np.hypot(columns + 0.5 - expected[0], rows + 0.5 - expected[1])
    assert far.max() <= radius + 0.5
    if 20 < expected[0] < 236 and 20 < expected[1] < 236:
        assert abs(np.array([columns.mean() + 0.5, rows.mean() + 0.5]) - expected).max() <= 0.5
        assert abs(maps[..., 0].sum() - np.pi * radius**2) < 6
    assert maps[128, 128, 1] == 1
    assert maps[..., 1].sum() < 90  # one disk: the box's corners light nothing


def test_one_place_has_one_code_at_every_granularity():
    fine, coarse = (np.asarray(sine_encoding_of_cells(n, n, 64, scale=20.0)) for n in (48, 16))
    np.testing.assert_allclose(coarse, fine[1::3, 1::3], atol=2e-5)
    assert np.abs(fine[0, 1] - fine[0, 0]).max() > 0.05


def loss_of(refiner_state, graph, model, features, views, image, prompts):
    model = model.with_refiner(nnx.merge(graph, refiner_state))
    features = model.prepare(image, features, views)
    output = model.decode(model.augment(model.image_embedding(features), features), features, prompts)
    refined = model.refine(features, output, output.masks[:, 0], prompts)
    return jnp.mean(refined.masks**2) + sum(jnp.mean(a**2) for a in refined.auxiliary)


def gradient_step(model, image, prompts):
    graph, state = nnx.split(model.refiner)
    features, views = jax.lax.stop_gradient(model.encode_views(image))
    return jax.value_and_grad(loss_of)(state, graph, model, features, views, image, prompts)


@jax.jit
def gradients_of(model, features, views, image, prompts):
    graph, state = nnx.split(model.refiner)
    return jax.grad(loss_of)(state, graph, model, features, views, image, prompts)


def test_gradients_reach_every_parameter_of_the_refiner(base, image, encoded, prompts):
    gradients = gradients_of(with_random_refiner(base, SAM2RefinerConfig()), *encoded, image, prompts)
    for path, gradient in nnx.to_flat_state(gradients):
        if path[-2:] != ("k_proj", "bias"):  # attention does not change when all keys move alike
            assert float(jnp.abs(gradient[...]).max()) > 0, path


@pytest.mark.slow
def test_gradient_step_contains_no_encoder_backward(base, image, encoded, prompts):
    """FLOPs by XLA: five encoder forwards and, for the rest, three times its forward at most."""

    def flops(function, *arguments):
        leaves, tree = jax.tree.flatten(arguments)
        flat = jax.jit(lambda leaves: function(*jax.tree.unflatten(tree, leaves)))
        return flat.lower(leaves).cost_analysis()["flops"]

    model = with_random_refiner(base, SAM2RefinerConfig())
    graph, state = nnx.split(model.refiner)
    encoder = flops(lambda m, x: m.encode_image(x), base, image)
    rest = flops(lambda s, *a: loss_of(s, graph, *a), state, model, *encoded, image, prompts)
    step = flops(gradient_step, model, image, prompts)
    assert 5 * encoder < step <= 1.15 * (5 * encoder + 3 * rest)


def test_bad_configurations(base):
    with pytest.raises(ValueError, match="views must be 'input' or 'source', got 'both'"):
        SAM2RefinerConfig(views="both")
    with pytest.raises(ValueError, match=r"refiner must be one of hq_sam2, sam2refiner.*got 'none'"):
        build_model("small", refiner="none")
    config = dataclasses.replace(base.config, image_size=96)
    model = model_from_weights(config, weights_of(base))
    model = model.with_refiner(build_refiner("sam2refiner", config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="image_size must be a multiple of 64 for a pooling window of 8, got 96"):
        jax.eval_shape(lambda m, x: m.encode(x), model, np.zeros((1, 96, 96, 3), np.float32))
