"""Memory attention and memory encoder against the official modules, every parameter random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from memories import with_none
from official import nchw, official_and_ours, relative_error, to_torch

from sam2refiner_jax.nn import memory_attention, memory_averages
from sam2refiner_jax.nn.memory_attention import Memory
from sam2refiner_jax.nn.memory_encoder import DepthwiseConv
from sam2refiner_jax.nn.positional import sine_encoding_2d
from sam2refiner_jax.nn.resize import antialiased_matrix

B, SIDE, DIM, MEMORY_DIM = 2, 16, 256, 64


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def memory_of(maps: int, pointers: int) -> Memory:
    places = SIDE * SIDE
    return Memory(
        normal(B, maps, places, MEMORY_DIM, seed=1),
        normal(B, maps, places, MEMORY_DIM, seed=2),
        jnp.ones((B, maps), bool),
        normal(B, pointers, MEMORY_DIM, seed=3),
        normal(B, pointers, MEMORY_DIM, seed=4),
        jnp.ones((B, pointers), bool),
    )


def with_missing(memory: Memory) -> Memory:
    """The same with maps and pointers before and after it that do not exist."""

    def padded(x, value):
        widths = [(0, 0), (1, 2)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, widths, constant_values=value)

    return jax.tree.map(lambda x: padded(x, False if x.dtype == bool else 3.0), memory)


@pytest.fixture(scope="module")
def attended():
    official, ours = official_and_ours("sam2.1_hiera_t")
    frame, frame_pe, memory = normal(B, SIDE, SIDE, DIM), normal(SIDE, SIDE, DIM, seed=5), memory_of(3, 8)

    def tokens(x):
        return torch.from_numpy(np.asarray(x).reshape(B, -1, x.shape[-1]).copy()).transpose(0, 1)

    pe = jnp.broadcast_to(frame_pe, frame.shape)
    with torch.no_grad():
        reference = official.memory_attention(
            curr=tokens(frame),
            curr_pos=tokens(pe),
            memory=torch.cat([tokens(memory.maps), tokens(memory.pointers)]),
            memory_pos=torch.cat([tokens(memory.maps_pe), tokens(memory.pointers_pe)]),
            num_obj_ptr_tokens=8,
        )
    reference = reference.transpose(0, 1).reshape(B, SIDE, SIDE, DIM).numpy()
    return ours.memory_attention, frame, frame_pe, memory, reference


@pytest.mark.parametrize("average", ["average_in_blocks", "average_map_by_map"])
@pytest.mark.parametrize("missing", [False, True])
def test_memory_attention_equals_official(attended, average, missing, monkeypatch):
    """Both the form for CPUs and that for accelerators; what does not exist changes nothing."""
    module, frame, frame_pe, memory, reference = attended
    monkeypatch.setattr(memory_attention, "average_in_blocks", getattr(memory_averages, average))
    monkeypatch.setattr(memory_averages, "QUERY_BLOCK", 100)  # several blocks, the last one padded
    out = jax.jit(lambda m, *args: m(*args))(module, frame, frame_pe, with_missing(memory) if missing else memory)
    assert relative_error(out, reference) <= 2e-6


def test_memory_attention_without_memories_is_finite(attended):
    module, frame, frame_pe, memory, _ = attended
    assert jnp.isfinite(module(frame, frame_pe, with_none(memory))).all()


def test_memory_encoder_equals_official():
    official, ours = official_and_ours("sam2.1_hiera_t")
    features, masks = normal(B, SIDE, SIDE, DIM), 10 * normal(B, 16 * SIDE, 16 * SIDE, 1, seed=1)
    out = jax.jit(lambda model, *args: model.memory_encoder(*args))(ours, features, masks)
    with torch.no_grad():
        reference = official.memory_encoder(to_torch(features), to_torch(masks), skip_mask_sigmoid=True)
    assert relative_error(nchw(out), reference["vision_features"]) <= 2e-6
    places = np.asarray(sine_encoding_2d(SIDE, SIDE, MEMORY_DIM)).transpose(2, 0, 1)
    np.testing.assert_allclose(places, reference["vision_pos_enc"][0][0], atol=1e-6)


def test_depthwise_convolution_equals_the_grouped_one():
    x, module = normal(B, 9, 11, 8), DepthwiseConv(8, 7, dtype=jnp.float32, rngs=nnx.Rngs(0))
    module.bias.set_value(normal(8, seed=2))
    expected = jax.lax.conv_general_dilated(
        x,
        module.kernel[...],
        (1, 1),
        "SAME",
        feature_group_count=8,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    np.testing.assert_allclose(module(x), expected + module.bias[...], atol=1e-5)


@pytest.mark.parametrize(("size_in", "size_out"), [(1024, 256), (480, 1024), (854, 128), (100, 100)])
def test_antialiased_resize_equals_official(size_in, size_out):
    x = np.random.default_rng(0).normal(size=(size_in, 3)).astype(np.float32)
    interpolate = functools.partial(
        torch.nn.functional.interpolate, mode="bilinear", antialias=True, align_corners=False
    )
    reference = interpolate(torch.from_numpy(x)[None, None], (size_out, 3))[0, 0]
    np.testing.assert_allclose(antialiased_matrix(size_in, size_out) @ x, reference, atol=1e-5)
