"""Attention to memories as it is defined, all logits at once, and inputs to compare other forms with it on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sam2refiner_jax.nn.memory_averages import Memory, keys_of
from sam2refiner_jax.nn.rotary import axial_rotations

B, MAPS, SIDE, DIM, WIDTH, POINTERS = 2, 3, 16, 32, 8, 12


def plain_average(q, memory: Memory, weights, rotations):
    """The values averaged with the softmax of all logits; where no memory exists, with equal weights."""
    map_keys, pointer_keys = keys_of(memory, weights, rotations, q.dtype)
    b, maps, n, c = map_keys.shape
    keys = jnp.concatenate([map_keys.reshape(b, maps * n, c), pointer_keys], axis=1)
    values = jnp.concatenate([memory.maps.reshape(b, maps * n, -1), memory.pointers], axis=1)
    exist = jnp.concatenate([jnp.repeat(memory.maps_exist, n, axis=1), memory.pointers_exist], axis=1)
    logits = jnp.einsum("bqc,bkc->bqk", q, keys, preferred_element_type=jnp.float32) / np.sqrt(c)
    shares = jax.nn.softmax(jnp.where(exist[:, None], logits, -1e30), axis=-1)
    return jnp.einsum("bqk,bkc->bqc", shares.astype(values.dtype), values)


def inputs(dtype=jnp.float32, *, weighted=False):
    """Queries, memories of which some are missing, weights of the keys' projection, and the maps' rotations."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    places = SIDE * SIDE
    memory = Memory(
        normal(B, MAPS, places, WIDTH),
        normal(B, MAPS, places, WIDTH),
        jnp.asarray([[False, True, True], [True, False, False]]),
        normal(B, POINTERS, WIDTH),
        normal(B, POINTERS, WIDTH),
        jnp.asarray(rng.random((B, POINTERS)) < 0.5).at[1].set(False),
        jnp.asarray(rng.uniform(0.5, 1.5, (B, MAPS)), jnp.float32) if weighted else None,
    )
    weights = normal(WIDTH, DIM).astype(jnp.float32), normal(DIM).astype(jnp.float32)
    return 2 * normal(B, places, DIM), memory, weights, axial_rotations(SIDE, DIM)


def with_none(memory: Memory) -> Memory:
    """The same, none of which exists."""
    return jax.tree.map(lambda x: jnp.zeros_like(x) if x.dtype == bool else x, memory)


def gradients(average, dtype=jnp.float32):
    """Of the queries, of all that the memory is of, and of the weights."""
    q, memory, weights, rotations = inputs(dtype, weighted=True)

    def loss(q, parts, weights):
        out = average(q, dataclasses.replace(memory, **parts), weights, rotations).astype(jnp.float32)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

    learned = ("maps", "maps_pe", "pointers", "pointers_pe", "maps_weight")
    arguments = q, {name: getattr(memory, name) for name in learned}, weights
    return jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments))
