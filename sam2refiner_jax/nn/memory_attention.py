"""Attention of a frame to the memories of other frames (`sam2.modeling.memory_attention`)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ..config import SAM2Config
from .attention import Attention, dot_product_attention
from .layers import layer_norm

__all__ = ["MemoryAttention", "RoPEAttention", "axial_rotations", "rotate"]

Rotations = tuple[Float[Array, "n pairs"], Float[Array, "n pairs"]]


def axial_rotations(side: int, dim: int, *, theta: float = 10000.0) -> Rotations:
    """Cosines and sines of the rotary encoding of a `side` x `side` map: half the channel pairs code x, half y."""
    frequencies = 1.0 / theta ** (jnp.arange(0, dim, 4)[: dim // 4].astype(jnp.float32) / dim)
    index = jnp.arange(side * side)
    x, y = (index % side).astype(jnp.float32), (index // side).astype(jnp.float32)
    angle = jnp.concatenate([x[:, None] * frequencies, y[:, None] * frequencies], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "b n d"], rotations: Rotations) -> Float[Array, "b n d"]:
    """Turns each pair of channels by its token's angle, in float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = rotations
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


class RoPEAttention(Attention):
    """One-head attention whose queries and spatial keys carry a rotary code; the last keys carry none."""

    def __init__(self, dim: int, *, kv_dim: int | None = None, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(dim, 1, kv_dim=kv_dim, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        q: Float[Array, "b q c"],
        k: Float[Array, "b k ck"],
        v: Float[Array, "b k ck"],
        rotations: Rotations,
        *,
        num_unrotated: int = 0,
        key_mask: Bool[Array, "b k"] | None = None,
    ) -> Float[Array, "b q c"]:
        """Attends; `k` is a whole number of maps as large as `q`, then `num_unrotated` tokens without a place.

        Values are averaged first and projected then: the same, since attention weights sum to one, and for memories,
        whose values have a quarter of the channels, a quarter of the work.
        """
        q = rotate(self.q_proj(q), rotations)
        k = self.k_proj(k)
        num_spatial = k.shape[1] - num_unrotated
        maps, remainder = divmod(num_spatial, q.shape[1])
        if remainder:
            raise ValueError(f"k must hold whole maps of {q.shape[1]} tokens before the pointers, got {num_spatial}")
        spatial = rotate(k[:, :num_spatial].reshape(k.shape[0] * maps, -1, k.shape[2]), rotations)
        k = jnp.concatenate([spatial.reshape(k.shape[0], num_spatial, -1), k[:, num_spatial:]], axis=1)
        averaged = dot_product_attention(q[:, :, None], k[:, :, None], v[:, :, None], key_mask=key_mask)
        return self.out_proj(self.v_proj(averaged[:, :, 0]))


class MemoryAttentionLayer(nnx.Module):
    """Self-attention of the frame, cross-attention to the memories, MLP; pre-norm, no dropout."""

    def __init__(self, dim: int, memory_dim: int, *, mlp_dim: int = 2048, dtype: DTypeLike, rngs: nnx.Rngs):
        self.self_attn = RoPEAttention(dim, dtype=dtype, rngs=rngs)
        self.cross_attn_image = RoPEAttention(dim, kv_dim=memory_dim, dtype=dtype, rngs=rngs)
        self.linear1 = nnx.Linear(dim, mlp_dim, dtype=dtype, rngs=rngs)
        self.linear2 = nnx.Linear(mlp_dim, dim, dtype=dtype, rngs=rngs)
        self.norm1 = layer_norm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.norm3 = layer_norm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(self, x, memory, memory_pe, rotations, *, num_pointers, memory_mask):
        y = self.norm1(x)
        x = x + self.self_attn(y, y, y, rotations)
        y = self.norm2(x)
        x = x + self.cross_attn_image(
            y, memory + memory_pe, memory, rotations, num_unrotated=num_pointers, key_mask=memory_mask
        )
        return x + self.linear2(jax.nn.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nnx.Module):
    """Conditions a frame's stride-16 features on memory features and object pointers."""

    def __init__(self, config: SAM2Config, *, num_layers: int = 4, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List(
            MemoryAttentionLayer(config.hidden_dim, config.memory_dim, dtype=dtype, rngs=rngs)
            for _ in range(num_layers)
        )
        self.norm = layer_norm(config.hidden_dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        frame: Float[Array, "b h h c"],
        frame_pe: Float[Array, "h h c"],
        memory: Float[Array, "b k cm"],
        memory_pe: Float[Array, "b k cm"],
        *,
        num_pointers: int = 0,
        memory_mask: Bool[Array, "b k"] | None = None,
    ) -> Float[Array, "b h h c"]:
        """The frame's features in the light of the memories.

        Args:
          frame: stride-16 features of a square image.
          frame_pe: their sine encoding.
          memory: tokens: whole maps of h * h, then object pointers.
          memory_pe: their spatial and temporal encodings.
          num_pointers: how many of the last memory tokens are object pointers, which have no place.
          memory_mask: False where a memory token does not exist.
        """
        b, h, _, c = frame.shape
        x = (frame + 0.1 * frame_pe.astype(frame.dtype)).reshape(b, h * h, c)
        rotations = axial_rotations(h, c)
        for layer in self.layers:
            x = layer(x, memory, memory_pe, rotations, num_pointers=num_pointers, memory_mask=memory_mask)
        return self.norm(x).reshape(b, h, h, c)
