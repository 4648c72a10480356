"""What is made of a model, by the model's name: as the official package's `from_pretrained`."""

from typing import Any, TypeVar

import jax.numpy as jnp
from jax.typing import DTypeLike

from .checkpoints import load_model

__all__ = ["FromPretrained"]

T = TypeVar("T")


class FromPretrained:
    """Base of classes whose constructor takes a model first."""

    @classmethod
    def from_pretrained(
        cls: type[T],
        model_id: str,
        *,
        refiner: str | None = None,
        image_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        **kwargs: Any,
    ) -> T:
        """One with the model that `load_model` gives; `kwargs` go to the constructor."""
        model = load_model(model_id, refiner=refiner, image_size=image_size, dtype=dtype)
        return cls(model, **kwargs)  # type: ignore[call-arg]
