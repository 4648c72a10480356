"""The tests' checks of types: beartype's, whose code for a function within another is made once, not at every call.

jaxtyping hands on a stand-in with the signature of each function that is defined. A function within another is defined
whenever the outer one runs, thousands of times while models are made, and checks of equal signatures are equal.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_checked: dict[tuple[Any, ...], Callable] = {}


def check_types(stand_in: Callable) -> Callable:
    """`stand_in` with checks of its arguments and result; one made earlier if it is the same but for defaults."""
    annotations = tuple(stand_in.__annotations__.items())
    try:
        known = _checked.get(key := (stand_in.__module__, stand_in.__qualname__, stand_in.__code__, annotations))
    except TypeError:  # an annotation without a hash
        return beartype(stand_in)
    return known or _checked.setdefault(key, beartype(stand_in))
