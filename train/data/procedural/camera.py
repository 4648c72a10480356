"""What a camera does to a scene: blur of motion and focus, exposure, colour cast, noise, compression."""

import functools

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

__all__ = ["develop", "motion_kernel"]

NOISE_SIDE = 512


def motion_kernel(rng: np.random.Generator, length: float) -> Float32[np.ndarray, "k k"]:
    """A kernel that smears along a slightly curved path of `length` pixels."""
    radius = int(np.ceil(length / 2)) + 1
    fine = 4
    kernel = np.zeros(((2 * radius + 1) * fine,) * 2, np.uint8)
    angle, bow = rng.uniform(0, np.pi), rng.normal(0, 0.15)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    t = np.linspace(-1, 1, 9)[:, None]
    path = (radius + 0.5 + length / 2 * (t * along + bow * (t**2 - 0.5) * across)) * fine - 0.5
    cv2.polylines(kernel, [np.round(path * 16).astype(np.int32)], False, 255, fine, cv2.LINE_8, 4)
    small = cv2.resize(kernel.astype(np.float32), (2 * radius + 1,) * 2, interpolation=cv2.INTER_AREA)
    return small / small.sum()


def develop(rng: np.random.Generator, scene: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A photo of the scene: sharpness, exposure, contrast, cast, noise and JPEG artefacts."""
    sharpness = rng.uniform(-1.0, 1.5)  # of soft lenses, and of cameras that sharpen
    if abs(sharpness) > 0.4:
        soft = cv2.GaussianBlur(scene, (0, 0), 0.7)
        scene = cv2.addWeighted(scene, 1 + sharpness, soft, -sharpness, 0)
    if rng.random() < 0.5:
        scene = _add_noise(rng, scene)
    picture = cv2.LUT(np.clip(scene, 0, 255).astype(np.uint8), _tone_curve(rng, float(scene.mean()) / 255))
    if rng.random() < 0.6:
        quality = int(rng.integers(30, 96))
        _, code = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = cv2.imdecode(code, cv2.IMREAD_COLOR_RGB)  # type: ignore[assignment]  # None is for broken files
    return picture


def _tone_curve(rng: np.random.Generator, mean: float) -> UInt8[np.ndarray, "256 1 3"]:
    """Exposure, contrast, brightness and a colour cast in one table for a scene of this mean, 0..1."""
    # Cameras bring most scenes near a middle grey: a gamma goes most of the way there.
    wanted, mean = np.clip(rng.normal(0.45, 0.08), 0.1, 0.8), np.clip(mean, 0.02, 0.98)
    gamma = (np.log(wanted) / np.log(mean)) ** 0.75
    curve = (np.arange(256) / 255)[:, None, None] ** np.clip(gamma, 0.4, 2.5)
    contrast, pivot = np.exp(rng.normal(-0.06, 0.15)), rng.uniform(0.3, 0.6)
    cast = np.exp(rng.normal(0, 0.05, 3))
    curve = ((curve - pivot) * contrast + pivot + rng.normal(0, 0.04)) * cast
    return np.round(np.clip(curve, 0, 1) * 255).astype(np.uint8)


def _add_noise(rng: np.random.Generator, scene: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Adds sensor noise, coarse or fine, coloured or grey."""
    height, width = scene.shape[:2]
    strength = min(float(rng.exponential(4.0)), 14.0)
    coarse = 2 if rng.random() < 0.3 else 1
    h, w = -(-height // coarse), -(-width // coarse)
    bank = _noise_bank()
    y, x = rng.integers(0, NOISE_SIDE, 2)
    grains = bank[np.arange(y, y + h)[:, None] % NOISE_SIDE, np.arange(x, x + w)[None] % NOISE_SIDE]
    if coarse > 1:
        grains = cv2.resize(grains, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.scaleAdd(grains, strength, scene)


@functools.cache
def _noise_bank() -> Float32[np.ndarray, "side side 3"]:
    """Normal noise of unit variance, half of it common to the colours."""
    rng = np.random.default_rng(0)
    shape = (NOISE_SIDE, NOISE_SIDE)
    common, own = rng.standard_normal((*shape, 1), np.float32), rng.standard_normal((*shape, 3), np.float32)
    return (common + own) * np.float32(0.5**0.5)
