"""The forms of attention to memories that XLA compiles, against its definition."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from memories import gradients, inputs, plain_average, with_none
from official import relative_error

from sam2refiner_jax.nn import memory_averages
from sam2refiner_jax.nn.memory_attention import form_of
from sam2refiner_jax.nn.memory_averages import average_in_blocks, average_map_by_map


@pytest.fixture(params=[average_map_by_map, average_in_blocks], ids=["map by map", "in blocks"])
def average(request, monkeypatch):
    monkeypatch.setattr(memory_averages, "QUERY_BLOCK", 100)  # several blocks, the last one padded
    return form_of(request.param, "none")


def test_averages_and_gradients_equal_the_definition(average):
    arguments = inputs(weighted=True)
    assert relative_error(jax.jit(average)(*arguments), plain_average(*arguments)) < 1e-6
    for ours, theirs in zip(gradients(average), gradients(plain_average), strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_without_memories_it_is_zero(average):
    q, memory, *rest = inputs()
    assert not average(q, with_none(memory), *rest).any()


def test_gradients_keep_no_logits_of_all_maps(average):
    q, memory, *rest = inputs()
    names = ("maps", "maps_pe", "maps_exist")
    memory = dataclasses.replace(memory, **{name: jnp.repeat(getattr(memory, name), 4, axis=1) for name in names})
    logits = 4 * q.shape[0] * q.shape[1] * memory.maps.shape[1] * memory.maps.shape[2]
    taken = []
    for form in (average, plain_average):
        compiled = jax.jit(jax.grad(lambda q, form=form: form(q, memory, *rest).sum())).lower(q).compile()
        taken.append(compiled.memory_analysis().temp_size_in_bytes)
    ours, plain = taken
    assert ours < logits < plain
