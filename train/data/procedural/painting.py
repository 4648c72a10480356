"""From a drawing in part numbers to a coloured, shaded layer with its coverage."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from .colours import Lab, natural_colour, ramp, tone_colour
from .sketch import SUPERSAMPLING, Part, Tone, coverage
from .textures import Textures

__all__ = ["Layer", "Look", "paint"]


@dataclasses.dataclass
class Look:
    """What the things of one scene share.

    Attributes:
      colours: to draw from.
      light: where the light comes from, an angle.
      sharing: how probably a part takes one of them.
      photographic: how probably a part's texture is cut from a photo, if there are photos.
    """

    colours: list[Lab]
    light: float
    sharing: float
    photographic: float


@dataclasses.dataclass
class Layer:
    """A painted object in a window of the frame.

    Attributes:
      x: left edge of the window in the frame.
      y: upper edge.
      colour: RGB, meaningful where there is coverage.
      alpha: coverage, 0..1.
      named: coverage of each nameable part, 0..1.
    """

    x: int
    y: int
    colour: Float32[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"]
    named: list[Float32[np.ndarray, "h w"]]


def paint(
    rng: np.random.Generator,
    samples: UInt8[np.ndarray, "h4 w4"],
    parts: list[Part],
    x: int,
    y: int,
    frame: int,
    textures: Textures,
    look: Look,
) -> Layer:
    """Gives each part of a rendered sketch a texture, and the whole a shading.

    Args:
      rng: source of chance.
      samples: part numbers at `SUPERSAMPLING` times the resolution.
      parts: what the numbers 1, 2, ... stand for.
      x: left edge of the window in the frame.
      y: upper edge.
      frame: side of the frame.
      textures: to cut from.
      look: of the scene.
    """
    height, width = samples.shape[0] // SUPERSAMPLING, samples.shape[1] // SUPERSAMPLING
    counts = cv2.calcHist([samples], [0], None, [256], [0, 256]).reshape(-1)
    colour = np.zeros((height, width, 3), np.uint8)
    total = np.zeros((height, width), np.float32)
    named: dict[int, Float32[np.ndarray, "h w"]] = {}
    main = _texture(rng, parts[0].tone, width, height, frame, textures, look)
    for number, part in enumerate(parts, start=1):
        if not counts[number]:
            continue
        window, cover = coverage(samples, number)
        share = cover.astype(np.float32)
        if number == 1 or (part.tone == "any" and rng.random() < 0.1):
            cut = main[window]
        else:
            cut = _texture(rng, part.tone, cover.shape[1], cover.shape[0], frame, textures, look)
        colour[window] = cv2.blendLinear(colour[window], cut, total[window], share)
        total[window] += share
        if part.group:
            named.setdefault(part.group, np.zeros((height, width), np.float32))[window] += share
    alpha = np.minimum(total / 255, 1)
    painted = colour.astype(np.float32)
    if rng.random() < 0.85:
        painted = _shade(rng, painted, alpha, look.light)
    return Layer(x, y, painted, alpha, [np.minimum(plane / 255, 1) for plane in named.values()])


def _texture(
    rng: np.random.Generator, tone: Tone, width: int, height: int, frame: int, textures: Textures, look: Look
) -> UInt8[np.ndarray, "h w 3"]:
    if textures.photos and rng.random() < look.photographic:
        return textures.crop(rng, width, height, least=0.15)
    if rng.random() < look.sharing:
        base = look.colours[rng.integers(len(look.colours))]
    else:
        base = tone_colour(rng, tone if rng.random() < 0.75 else "any")
    colours = [base]
    if rng.random() < 0.3:
        colours.append(natural_colour(rng) * 0.5 + base * 0.5 if rng.random() < 0.5 else natural_colour(rng))
    contrast = float(np.clip(rng.lognormal(1.85, 0.8), 0.5, 30))
    return textures.cut(rng, width, height, frame, ramp(rng, colours, contrast))


def _shade(
    rng: np.random.Generator, colour: Float32[np.ndarray, "h w 3"], alpha: Float32[np.ndarray, "h w"], light_from: float
) -> Float32[np.ndarray, "h w 3"]:
    """Light from one side on a body that bulges from its outline inwards, and a gradient over the whole."""
    height, width = alpha.shape
    # A tiny version holds all that a soft shading has.
    scale = min(1.0, 40 / max(height, width))
    w, h = max(round(width * scale), 2), max(round(height * scale), 2)
    body = cv2.resize(alpha, (w, h), interpolation=cv2.INTER_AREA)
    wide, near = cv2.GaussianBlur(body, (0, 0), 4.0), cv2.GaussianBlur(body, (0, 0), 1.3)
    bulge = wide + 0.6 * near
    angle, strength = light_from + rng.normal(0, 0.2), rng.uniform(0.1, 0.65)
    slope = cv2.Sobel(bulge, cv2.CV_32F, 1, 0) * np.cos(angle) + cv2.Sobel(bulge, cv2.CV_32F, 0, 1) * np.sin(angle)
    light = slope * (strength / (float(np.abs(slope).max()) + 1e-3))
    ys, xs = np.linspace(-1, 1, h, dtype=np.float32), np.linspace(-1, 1, w, dtype=np.float32)
    fall = rng.normal(0, 0.15, 2).astype(np.float32)
    light = 1 + light + fall[0] * ys[:, None] + fall[1] * xs[None]
    light -= rng.uniform(0, 0.3) * (1 - np.minimum(near / (body + 0.05), 1))
    light = cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    shaded = cv2.multiply(colour, cv2.merge([light, light, light]))
    if rng.random() < 0.1:  # gloss
        peak = np.maximum(light - 1 - 0.5 * strength, 0) * rng.uniform(80, 250)
        shaded = cv2.add(shaded, cv2.merge([peak, peak, peak]))
    return np.clip(shaded, 0, 255, out=shaded)
