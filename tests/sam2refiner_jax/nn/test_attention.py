import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from official import relative_error

from sam2refiner_jax.nn.attention import Attention, dot_product_attention

# Batch, queries, keys, heads, channels: windows, the decoder's two directions, and more logits than one block holds.
SHAPES = [(25, 49, 196, 4, 24), (2, 17, 256, 8, 16), (2, 256, 17, 8, 16), (1, 300, 8000, 1, 32)]


def random_inputs(shape, seed=0):
    b, queries, keys, heads, channels = shape
    rng = np.random.default_rng(seed)
    # Large logits: a softmax without its maximum taken off would overflow.
    q, k, v = (
        scale * rng.normal(size=(b, n, heads, channels)).astype(np.float32)
        for n, scale in ((queries, 30), (keys, 1), (keys, 1))
    )
    mask = rng.random((b, keys)) < 0.7
    mask[:, 0] = True
    return q, k, v, mask


def torch_attention(q, k, v, mask=None):
    q, k, v = (torch.as_tensor(x).transpose(1, 2) for x in (q, k, v))
    mask = None if mask is None else torch.from_numpy(mask)[:, None, None, :]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_pytorch(shape, masked):
    q, k, v, mask = random_inputs(shape)
    ours = jax.jit(dot_product_attention)(q, k, v, key_mask=mask if masked else None)
    assert relative_error(ours, torch_attention(q, k, v, mask if masked else None)) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_pytorch(shape):
    q, k, v, mask = random_inputs(shape)
    q = q / 30
    tensors = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    torch_attention(*tensors, mask).square().sum().backward()
    loss = lambda q, k, v: jnp.sum(dot_product_attention(q, k, v, key_mask=jnp.asarray(mask)) ** 2)  # noqa: E731
    for ours, tensor in zip(jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v), tensors, strict=True):
        assert relative_error(ours, tensor.grad) < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_stays_near_float32(shape):
    q, k, v, mask = (jnp.asarray(x) for x in random_inputs(shape))
    half = [x.astype(jnp.bfloat16) for x in (q / 30, k, v)]
    exact = dot_product_attention(*(x.astype(jnp.float32) for x in half), key_mask=mask)
    ours = jax.jit(dot_product_attention)(*half, key_mask=mask)
    assert ours.dtype == jnp.bfloat16
    assert relative_error(ours.astype(jnp.float32), exact) < 0.01


def test_masked_keys_are_not_read():
    q, k, v, mask = random_inputs(SHAPES[0])
    other_k, other_v = (np.where(mask[:, :, None, None], x, 1e6).astype(np.float32) for x in (k, v))
    attend = jax.jit(dot_product_attention)
    np.testing.assert_array_equal(attend(q, k, v, key_mask=mask), attend(q, other_k, other_v, key_mask=mask))


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="num_heads must divide the inner channels 12, got 5"):
        Attention(24, 5, downsample_rate=2, dtype=jnp.float32, rngs=nnx.Rngs(0))
