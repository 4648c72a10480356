"""How a photo fills the model's square input: squeezed to it, or in proportion with the rest padded.

Padded, the photo lies in the top left corner of a square canvas of ImageNet's mean colour, as long as its longer side,
and everything is as if that canvas were the photo. The official package squeezes; SAM, before it, padded.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

__all__ = ["Fit", "canvas_of", "check_fit", "on_canvas"]

Fit = Literal["squeeze", "pad"]


def check_fit(fit: str) -> None:
    """Refuses what is no way to fit.

    Raises:
      ValueError: naming it.
    """
    if fit not in get_args(Fit):
        raise ValueError(f"fit must be {' or '.join(map(repr, get_args(Fit)))}, got {fit!r}")


def canvas_of(photo_size: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """Height and width, in pixels of the photo, of what becomes the model's input.

    Args:
      photo_size: height and width of the photo.
      fit: the photo itself is squeezed, or padded to a square first.
    """
    side = max(photo_size)
    return photo_size if fit == "squeeze" else (side, side)


def on_canvas(values: Float[np.ndarray, "h w"], fit: Fit, fill: float) -> Float[np.ndarray, "h2 w2"]:
    """A map of the photo's size as one of the canvas's, with `fill` where there is no photo."""
    height, width = canvas_of((values.shape[0], values.shape[1]), fit)
    return np.pad(values, ((0, height - values.shape[0]), (0, width - values.shape[1])), constant_values=fill)
