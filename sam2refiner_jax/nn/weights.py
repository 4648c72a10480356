"""What a weight says of itself: metadata of its `nnx.Param`, given where the weight is made, and read here.

| metadata | says | without it |
|---|---|---|
| `part` | the part of the model that it belongs to, as `--trainable` names it | it is given by `in_part` to whatever a part is made of |
| `layout` | where its axes stand in PyTorch's tensor, such as "io->oi" (i and o: channels that go in and come out) | the same order |
| `decay` | that weight decay draws it to zero | it does not decay |
| `store` | COMPUTE: in memory it has the type that the model computes in | float32 |

The layers of `layers.py` say all of it. Metadata of one of Flax's own layers is given by `nnx.with_metadata` around its
initialiser, that of a weight of one's own by keywords: `nnx.Param(value, **KERNEL, layout="io->oi")`.
"""  # noqa: E501

from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

__all__ = ["BIAS", "COMPUTE", "KERNEL", "decays", "in_part", "part_of", "storage_dtype"]

M = TypeVar("M", bound=nnx.Module)

COMPUTE = "compute"
# Of weights that are multiplied with what goes through a layer, and of those that are added to it.
KERNEL: dict[str, Any] = {"decay": True, "store": COMPUTE}
BIAS: dict[str, Any] = {"store": COMPUTE}


def in_part(part: str, module: M) -> M:
    """The module, each weight of which says that it belongs to a part of the model."""
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Variable):
            node.set_metadata(part=part)
    return module


def part_of(weight: nnx.Variable) -> str | None:
    """The part of the model that a weight belongs to."""
    return weight.get_metadata().get("part")


def decays(weight: nnx.Variable) -> bool:
    """Whether weight decay draws it to zero."""
    return weight.get_metadata().get("decay", False)


def storage_dtype(weight: nnx.Variable, dtype: DTypeLike) -> np.dtype:
    """The type of a weight in the memory of a model that computes in `dtype`, unless it is to be trained."""
    return jnp.dtype(dtype if weight.get_metadata().get("store") == COMPUTE else jnp.float32)
