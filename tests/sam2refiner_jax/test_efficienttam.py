"""EfficientTAM against PyTorch, every parameter random, and what its plain ViT means for refiners and other trunks."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from efficienttam import build_reference, config_of
from flax import nnx
from official import nchw, official_image_predictor, ours_of, randomise, relative_error
from videos import SideBySide, moving_frames, randomise_predictor, video_pair, write_jpegs

from sam2refiner_jax import (
    PRESETS,
    CheckpointError,
    HQSAM2Config,
    SAM2Config,
    SAM2ImagePredictor,
    SAM2RefinerConfig,
    SAMRefConfig,
    TrunkConfig,
    ViTConfig,
    build_model,
    load_model,
    register_preset,
    register_trunk,
    save_model,
)
from sam2refiner_jax.checkpoints import weights_of
from sam2refiner_jax.config import TRUNKS
from sam2refiner_jax.image.preprocess import preprocess_image
from sam2refiner_jax.nn import image_encoder, memory_attention
from sam2refiner_jax.nn.layers import conv
from sam2refiner_jax.nn.memory_attention import Memory
from sam2refiner_jax.nn.prompt_encoder import Prompts
from sam2refiner_jax.refiners import build_refiner
from sam2refiner_jax.sam2 import SAM2

SIZE, CLIP_SIZE, HEIGHT, WIDTH, FRAMES = 256, 128, 120, 180, 7
POOLED = {"logits": "efficienttam_ti_1", "keys": "efficienttam_ti_2"}


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """PyTorch's threads wait for each other by spinning, which takes seconds where others need the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pair(name: str, size: int):
    config = config_of(name, size)
    reference = randomise(build_reference(config))
    return reference, ours_of(reference, config)


# At 224 pixels the positional embedding is as large as the map, and so is a window; at 256 four windows are padded.
@pytest.mark.parametrize(("name", "size"), [("efficienttam_ti", 224), ("efficienttam_s", 256)])
def test_encoder_equals_the_reference(name, size, photo):
    reference, ours = pair(name, size)
    image = preprocess_image(photo, size)[None]
    features = jax.jit(lambda model, x: model.encode_image(x))(ours, image)
    with torch.no_grad():
        x = torch.from_numpy(nchw(image).copy())
        stage, level = reference.image_encoder.trunk(x), reference.forward_image(x)["vision_features"]
    assert features.high_res == ()
    assert len(features.stages) == 1
    assert relative_error(nchw(features.stages[0]), stage) <= 1e-5
    assert relative_error(nchw(features.embedding), level) <= 1e-5


def test_masks_of_a_photo_equal_the_reference(wide_photo):
    reference, ours = pair("efficienttam_ti", SIZE)
    reference, ours = official_image_predictor(reference), SAM2ImagePredictor(ours)
    height, width = wide_photo.shape[:2]
    for predictor in (reference, ours):
        predictor.set_image(wide_photo)
    click = {"point_coords": [[width / 2, height / 3], [width / 5, height / 2]], "point_labels": [1, 0]}
    box = {"box": [width / 10, height / 10, width / 2, height / 2]}
    low_res = ours.predict(**click)[2][:1]
    for prompts in (click, click | box, click | {"mask_input": low_res}):
        for multimask in (True, False):
            arrays = {name: np.array(value) for name, value in prompts.items()}
            expected = reference.predict(**arrays, multimask_output=multimask, return_logits=True)
            result = ours.predict(**prompts, multimask_output=multimask, return_logits=True)
            assert np.abs(result[2] - expected[2]).max() <= 1e-4 * np.ptp(expected[2])
            assert np.abs(result[1] - expected[1]).max() <= 1e-5
            assert ((result[0] > 0) == (expected[0] > 0)).mean() >= 0.9999


@pytest.mark.parametrize("name", ["efficienttam_ti", pytest.param("efficienttam_ti_1", marks=pytest.mark.slow)])
def test_tracked_masks_equal_the_reference(name, tmp_path):
    """Two objects, of which the second has one memory where the first has several."""
    config = config_of(name, CLIP_SIZE)
    reference = randomise_predictor(build_reference(config, video=True))
    clip = write_jpegs(tmp_path / "clip", moving_frames(FRAMES, HEIGHT, WIDTH))
    both = SideBySide(*video_pair(reference, ours_of(reference, config), exact_memories=True), clip)
    both.call("add_new_points_or_box", 0, 1, points=np.array([[45.0, 60.0]]), labels=np.array([1], np.int32))
    both.propagate(max_frame_num_to_track=2)
    both.call("add_new_points_or_box", 2, 2, box=np.array([100.0, 5.0, 140.0, 60.0]))
    both.propagate(start_frame_idx=2)
    assert len(both.shares) > 2 * FRAMES - 2
    assert 0.02 < np.median(both.shares) < 0.98
    assert both.agreement >= 0.9999
    assert both.memory_error <= 1e-5
    assert both.pointer_error <= 1e-5


def normal(*shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("average", ["average_in_blocks", "average_map_by_map"])
@pytest.mark.parametrize("counts", [(3, 3), (3, 1)])
def test_attention_to_pooled_memories_equals_the_reference(pooling, average, counts, monkeypatch):
    """The form for CPUs and that for accelerators; a single memory is not pooled, and what is missing is nothing."""
    monkeypatch.setattr(memory_attention, "average_in_blocks", getattr(memory_attention, average))
    reference, ours = pooled_pair(pooling)
    side, dim, memory_dim, pointers = 16, 256, 64, 8
    places = side * side
    x, place = normal(2, places, dim, seed=0), memory_attention.axial_rotations(side, dim)
    maps, maps_pe = (normal(2, 4, places, memory_dim, seed=seed) for seed in (1, 2))
    tokens, tokens_pe = (normal(2, pointers, memory_dim, seed=seed) for seed in (3, 4))
    maps_exist = jnp.arange(4) > 3 - jnp.array(counts)[:, None]  # the last ones
    memory = Memory(maps, maps_pe, maps_exist, tokens, tokens_pe, jnp.ones((2, pointers), bool))
    result = jax.jit(lambda module, *args: module(*args))(ours, x, memory, place)
    for row, count in enumerate(counts):
        values, encodings = (
            torch.from_numpy(np.concatenate([m[row, 4 - count :].reshape(-1, memory_dim), t[row]])[None])
            for m, t in ((maps, tokens), (maps_pe, tokens_pe))
        )
        with torch.no_grad():
            query = torch.from_numpy(np.array(x[row : row + 1]))
            expected = reference(q=query, k=values + encodings, v=values, num_k_exclude_rope=pointers)
        assert relative_error(result[row : row + 1], expected) <= 1e-5


def pooled_pair(pooling: str):
    """One layer's attention to memories."""
    if pooling not in _LAYERS:
        reference, ours = pair(POOLED[pooling], SIZE)
        _LAYERS[pooling] = tuple(m.memory_attention.layers[0].cross_attn_image for m in (reference, ours))
    return _LAYERS[pooling]


_LAYERS: dict[str, tuple] = {}


def test_poolings_are_different_models():
    """What the comparisons above could not tell apart they would not test."""
    x, place = normal(1, 256, 256, seed=0), memory_attention.axial_rotations(16, 256)
    maps, tokens = normal(1, 3, 256, 64, seed=1), normal(1, 8, 64, seed=2)
    memory = Memory(maps, maps, jnp.ones((1, 3), bool), tokens, tokens, jnp.ones((1, 8), bool))
    _, layer = pooled_pair("logits")
    results = []
    for pooling in ("none", "logits", "keys"):
        layer.pooling = pooling
        results.append(np.asarray(layer(x, memory, place)))
    layer.pooling = "logits"
    for a, b in itertools.combinations(results, 2):
        assert relative_error(a, b) > 1e-3


SMALL_VIT = SAM2Config(
    name="small_vit",
    trunk=ViTConfig(embed_dim=32, num_heads=2, depth=2, global_att_blocks=(1,), window_size=3),
    image_size=64,
    hidden_dim=64,
    memory_dim=16,
    mlp_dim=64,
)


@pytest.fixture(scope="module")
def small_vit():
    return SAM2(SMALL_VIT, rngs=nnx.Rngs(0))


def shape_of_refined(model: SAM2, refiner) -> tuple[int, ...]:
    """The shape of refined masks of one photo, of which nothing is computed."""
    config = model.config

    def refine(images):
        refining = model.with_refiner(build_refiner(refiner, config, rngs=nnx.Rngs(1)))
        features = refining.encode(images)
        points, labels = jnp.zeros((1, 2, 2)), jnp.ones((1, 2), jnp.int32)
        prompts = Prompts(points, labels, jnp.zeros((1, *[config.mask_size] * 2)), jnp.zeros(1, bool))
        embedding = refining.augment(refining.image_embedding(features), features)
        output = refining.decode(embedding, features, prompts, with_refiner=True)
        return refining.refine(features, output, output.masks[:, 0], prompts).masks

    return jax.eval_shape(refine, jnp.zeros((1, config.image_size, config.image_size, 3))).shape


@pytest.mark.parametrize(
    ("refiner", "side"),
    [
        (SAM2RefinerConfig(mask_refinement=False, pool_windows=(2,)), 64),
        (HQSAM2Config(), 16),
        (SAMRefConfig(width=8, blocks=1), 64),
    ],
)
def test_refiners_that_read_no_stages_take_a_plain_vit(refiner, side, small_vit):
    assert shape_of_refined(small_vit, refiner) == (1, side, side)


def test_a_refiner_that_reads_stages_says_that_a_plain_vit_has_none():
    message = (
        "mask_refinement of the refiner sam2refiner reads the trunk's stages at strides 4, 8 and 16; that of "
        r"efficienttam_s \(ViTConfig\) has 16"
    )
    with pytest.raises(ValueError, match=message):
        build_model("efficienttam_s", refiner="sam2refiner")


@pytest.fixture
def conv_trunk():
    """The example of CONTRIBUTING.md."""

    @dataclasses.dataclass(frozen=True)
    class ConvTrunkConfig(TrunkConfig):
        width: int = 8

        @property
        def stage_strides(self):
            return (4, 8, 16, 32)

        @property
        def stage_dims(self):
            return tuple(self.width * 2**i for i in range(4))

    class ConvTrunk(nnx.Module):
        """One convolution a stage."""

        def __init__(self, config, *, dtype, rngs):
            sizes = zip(itertools.pairwise((3, *config.stage_dims)), (4, 2, 2, 2), strict=True)
            self.convs = nnx.List(conv(n, k, side, stride=side, dtype=dtype, rngs=rngs) for (n, k), side in sizes)

        def __call__(self, image):
            return tuple(itertools.accumulate(self.convs, lambda x, layer: jax.nn.gelu(layer(x)), initial=image))[1:]

    register_trunk("conv", ConvTrunkConfig, ConvTrunk)
    register_preset(dataclasses.replace(SMALL_VIT, name="conv", trunk=ConvTrunkConfig()))
    yield ConvTrunkConfig
    del TRUNKS["conv"], PRESETS["conv"], image_encoder._MODULES[ConvTrunkConfig]


def test_somebody_elses_trunk(conv_trunk, tmp_path):
    model = build_model("conv")
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert isinstance(loaded.config.trunk, conv_trunk)
    weights = weights_of(loaded)
    for path, weight in weights_of(model).items():
        np.testing.assert_array_equal(weight, weights[path], err_msg=path)
    assert shape_of_refined(model, SAM2RefinerConfig(pool_windows=(2,))) == (1, 64, 64)
    with pytest.raises(ValueError, match="a trunk named 'conv' exists already"):
        register_trunk("conv", conv_trunk, object)


def test_a_trunk_that_is_not_registered_is_refused(conv_trunk, tmp_path):
    save_model(build_model("conv"), tmp_path / "model")
    saved = {**TRUNKS}
    del TRUNKS["conv"]
    try:
        with pytest.raises(CheckpointError, match=r"trunk\.kind must be one of hiera, vit, got 'conv'"):
            load_model(tmp_path / "model")
    finally:
        TRUNKS.update(saved)

    class Unknown(TrunkConfig):
        pass

    with pytest.raises(ValueError, match=r"trunk must be of a registered type \(HieraConfig, ViTConfig, .*Unknown"):
        SAM2(SAM2Config(trunk=Unknown()), rngs=nnx.Rngs(0))
