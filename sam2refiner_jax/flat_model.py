"""A model as an argument of compiled functions that are called often."""

import functools
import weakref
from collections.abc import Iterable
from typing import Any

import jax
from flax import nnx

from .sam2 import SAM2

__all__ = ["FlatModel", "flat_model"]


def flat_model(model: SAM2) -> "FlatModel":
    """What stands for a model where a compiled function is called with it; within the function it is the model itself.

    A module is a tree of hundreds of modules, through which `jax.jit` goes in Python at each call: 8 ms for SAM 2.1 T
    with a refiner, in which a device could have encoded a photo. This goes through it once for each model.

        encode_photos(flat_model(model), images)

    Calls see the values that the model's variables have then, and the model's own attributes; parts that are replaced
    deeper within it they do not see.

    Args:
      model: the model, to which nothing is done.
    """
    found = _FLAT.get(model)
    if found is None:
        found = _FLAT[model] = FlatModel(model)
    return found


@jax.tree_util.register_pytree_node_class
class FlatModel:
    """See `flat_model`. Its leaves are the model's; of its structure and leaves the model is made."""

    def __init__(self, model: SAM2):
        self._model = weakref.ref(model)  # which this must not keep alive
        self._look(model)

    def _look(self, model: SAM2) -> None:
        self._attributes = dict(vars(model))
        leaves = jax.tree.leaves(model, is_leaf=_is_variable)
        assert all(map(_is_variable, leaves))
        self._values = [variable.get_raw_value for variable in leaves]
        self._structure = _shared(jax.tree.structure(model))

    def tree_flatten(self) -> tuple[list[Any], "_Structure"]:
        model = self._model()
        if model is not None:
            before, now = self._attributes, vars(model)
            if before.keys() != now.keys() or any(before[name] is not value for name, value in now.items()):
                self._look(model)
        return [value() for value in self._values], self._structure

    @classmethod
    def tree_unflatten(cls, structure: "_Structure", leaves: Iterable[Any]) -> SAM2:
        return jax.tree.unflatten(structure.of_model, leaves)


_FLAT: weakref.WeakKeyDictionary[SAM2, FlatModel] = weakref.WeakKeyDictionary()


class _Structure:
    """A tree's structure that is compared and hashed by its identity, which takes no time."""

    def __init__(self, of_model: Any):
        self.of_model = of_model


@functools.lru_cache(maxsize=256)
def _shared(of_model: Any) -> _Structure:
    """The one object for all models of a structure, so that they share what is compiled."""
    return _Structure(of_model)


def _is_variable(x: Any) -> bool:
    return isinstance(x, nnx.Variable)
