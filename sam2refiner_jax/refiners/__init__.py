"""Refiners: modules around the mask decoder that make finer masks."""

from .base import REFINERS, Refined, Refiner, RefinerInputs, build_refiner, register_refiner
from .hq_sam2 import HQSAM2, HQSAM2Config
from .sam2refiner import SAM2Refiner, SAM2RefinerConfig
from .sam_ref import SAMRef, SAMRefConfig

__all__ = [
    "HQSAM2",
    "HQSAM2Config",
    "REFINERS",
    "Refined",
    "Refiner",
    "RefinerInputs",
    "SAM2Refiner",
    "SAM2RefinerConfig",
    "SAMRef",
    "SAMRefConfig",
    "build_refiner",
    "register_refiner",
]
