"""Colours as they occur in photos, and ramps of them that turn grey textures into coloured ones."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from .sketch import Tone

__all__ = ["Lab", "Ramp", "natural_colour", "ramp", "tone_colour"]

# Lightness 0..100, then the two opponent axes, about -100..100.
Lab = Float[np.ndarray, "3"]
# RGB of each grey value.
Ramp = UInt8[np.ndarray, "256 1 3"]

# Standard deviations from the mean that the grey values of a field stand for.
GREY = (np.arange(256) - 128) / 50

# Lightness (low, high), chroma (low, high) and hue in degrees (centre, spread) of the tones of parts.
TONES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "dark": ((5, 28), (0, 6), (250, 180)),
    "light": ((72, 97), (0, 12), (80, 60)),
    "metal": ((30, 85), (0, 6), (250, 60)),
    "glass": ((15, 75), (0, 14), (230, 40)),
    "green": ((18, 70), (12, 45), (118, 20)),
    "wood": ((18, 60), (8, 30), (65, 12)),
    "skin": ((28, 82), (12, 30), (50, 10)),
    "hair": ((6, 60), (2, 28), (65, 15)),
    "vivid": ((25, 80), (30, 75), (0, 180)),
}


def natural_colour(rng: np.random.Generator) -> Lab:
    """A colour of some thing in a photo: mostly muted, browns and greens before blues, reds and violets rare."""
    kind = rng.random()
    if kind < 0.45:
        hue = rng.normal(80, 22)
    elif kind < 0.65:
        hue = rng.normal(260, 22)
    elif kind < 0.8:
        hue = rng.normal(125, 15)
    else:
        hue = rng.uniform(0, 360)
    return _lab(rng.uniform(8, 94), min(rng.gamma(1.4, 13.0), 80.0), hue)


def tone_colour(rng: np.random.Generator, tone: Tone) -> Lab:
    """A colour of the tone."""
    if tone == "any":
        return natural_colour(rng)
    lightness, chroma, (hue, spread) = TONES[tone]
    return _lab(rng.uniform(*lightness), rng.uniform(*chroma), hue + rng.uniform(-spread, spread))


def ramp(rng: np.random.Generator, colours: list[Lab], contrast: float) -> Ramp:
    """The colours of a texture from its darkest to its lightest grey.

    Args:
      rng: source of chance.
      colours: one to be varied in lightness, or several that the texture runs through.
      contrast: standard deviation of the texture's lightness, 0..100, about each colour.
    """
    drift = np.array([contrast, *rng.normal(0, 0.15 * contrast, 2)])
    lab = GREY[:, None] * drift
    if len(colours) == 1:
        lab += colours[0]
    else:
        stops = np.arange(len(colours)) * (2.4 / (len(colours) - 1)) - 1.2
        lab += np.stack([np.interp(GREY, stops, [c[axis] for c in colours]) for axis in range(3)], axis=-1)
    lab[:, 0] = np.clip(lab[:, 0], 0, 100)
    # OpenCV's bytes of Lab: lightness over 100 in 255 steps, the axes with an offset.
    code = np.clip(lab * [2.55, 1, 1] + [0, 128, 128], 0, 255).astype(np.uint8)
    return cv2.cvtColor(code[:, None], cv2.COLOR_LAB2RGB)


def _lab(lightness: float, chroma: float, hue: float) -> Lab:
    angle = np.radians(hue)
    return np.array([lightness, chroma * np.cos(angle), chroma * np.sin(angle)])
