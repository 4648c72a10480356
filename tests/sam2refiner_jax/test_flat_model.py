"""What stands for a model in calls is the model, as it is then."""

import copy
import dataclasses
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_model

from sam2refiner_jax import build_model
from sam2refiner_jax.flat_model import flat_model


@pytest.fixture
def model():
    return copy.deepcopy(small_model())


@pytest.fixture
def seen():
    """A compiled function that says of which configuration it was compiled, and what value it got."""

    @jax.jit
    def look(model):
        return jnp.asarray(model.config.no_obj_embed_spatial), model.no_mem_embed[...]

    return look


def test_leaves_and_structure_are_those_of_the_model(model):
    leaves, structure = jax.tree.flatten(flat_model(model))
    assert all(a is b for a, b in zip(leaves, jax.tree.leaves(model), strict=True))
    made = jax.tree.unflatten(structure, leaves)
    assert type(made) is type(model)
    assert jax.tree.structure(made) == jax.tree.structure(model)


def test_calls_see_what_was_changed(model, seen):
    _, before = seen(flat_model(model))
    model.no_mem_embed.set_value(before + 1)
    was, after = seen(flat_model(model))
    np.testing.assert_array_equal(after, np.asarray(before) + 1)
    model.config = dataclasses.replace(model.config, no_obj_embed_spatial=not was)
    assert bool(seen(flat_model(model))[0]) is not bool(was)
    assert seen._cache_size() == 2


def test_models_of_a_structure_share_what_is_compiled(seen):
    model, other = build_model("small"), build_model("small")
    other.no_mem_embed.set_value(jnp.full_like(other.no_mem_embed[...], 7))
    results = [seen(flat_model(each))[1] for each in (model, other, model)]
    assert seen._cache_size() == 1
    np.testing.assert_array_equal(results[0], results[2])
    assert (np.asarray(results[1]) == 7).all()


def test_a_model_that_nobody_has_is_gone():
    model = copy.deepcopy(small_model())
    kept, stands_for_it = weakref.ref(model), flat_model(model)
    leaves = jax.tree.leaves(model)
    del model
    gc.collect()
    assert kept() is None
    assert all(a is b for a, b in zip(jax.tree.leaves(stands_for_it), leaves, strict=True))
