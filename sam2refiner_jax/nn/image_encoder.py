"""The image encoder: a trunk, chosen by the type of its configuration, and the neck that goes with it.

A trunk is a module with a constructor `(config, *, dtype, rngs)` that makes of normalised images, (b, s, s, 3), a tuple
of maps, (b, h, w, c): its stages, of the strides and channels that its configuration says, highest resolution first.

A neck has a constructor `(stage_dims, dim, *, dtype, rngs)`. Called with the stages it gives the levels that the mask
decoder reads, all of `dim` channels, at its `strides`: (4, 8, 16), or (16,) if the decoder is to do without finer ones.
Its method `stride16` gives the last one alone.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from ..config import TRUNKS, HieraConfig, SAM2Config, TrunkConfig, ViTConfig
from .fpn import FpnNeck
from .hiera import Hiera
from .vit import SimpleNeck, ViT

__all__ = ["ImageEncoder", "register_trunk"]

_MODULES: dict[type[TrunkConfig], tuple[Callable[..., Any], Callable[..., Any]]] = {}


def register_trunk(
    kind: str, config: type[TrunkConfig], trunk: Callable[..., Any], neck: Callable[..., Any] = FpnNeck
) -> None:
    """Makes a trunk known to models whose configuration has one of type `config`.

    Args:
      kind: its name in files.
      config: the type of its configuration, a frozen dataclass of plain values.
      trunk: its class.
      neck: the class of the neck that goes with it. SAM 2's own takes four stages, at strides 4, 8, 16 and 32.
    """
    if kind in TRUNKS:
        raise ValueError(f"a trunk named {kind!r} exists already")
    config.kind = kind
    TRUNKS[kind] = config
    _MODULES[config] = trunk, neck


class ImageEncoder(nnx.Module):
    """Trunk and neck.

    Args:
      config: the model's configuration; its `trunk` and `hidden_dim` are read.
      dtype: computation type, float32 or bfloat16.
      rngs: keys of fresh weights.

    Raises:
      ValueError: if no trunk is registered for the type of `config.trunk`.
    """

    def __init__(self, config: SAM2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        if type(config.trunk) not in _MODULES:
            known = ", ".join(known.__name__ for known in _MODULES)
            raise ValueError(f"trunk must be of a registered type ({known}), got {config.trunk!r}")
        trunk, neck = _MODULES[type(config.trunk)]
        self.trunk = trunk(config.trunk, dtype=dtype, rngs=rngs)
        self.neck = neck(config.trunk.stage_dims, config.hidden_dim, dtype=dtype, rngs=rngs)


register_trunk("hiera", HieraConfig, Hiera)
register_trunk("vit", ViTConfig, ViT, SimpleNeck)
