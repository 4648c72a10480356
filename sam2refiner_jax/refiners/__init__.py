"""Refiners: modules around the mask decoder that make finer masks."""

from .base import REFINERS, Refined, Refiner, RefinerInputs, build_refiner, register_refiner
from .sam2refiner import SAM2Refiner, SAM2RefinerConfig

__all__ = [
    "REFINERS",
    "Refined",
    "Refiner",
    "RefinerInputs",
    "SAM2Refiner",
    "SAM2RefinerConfig",
    "build_refiner",
    "register_refiner",
]
