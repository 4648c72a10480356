"""SAM 2 and SAM2Refiner in JAX."""

from .checkpoints import CheckpointError, build_model, load_model, load_refiner, save_model, save_refiner
from .config import PRESETS, HieraConfig, SAM2Config
from .features import ImageFeatures
from .image_predictor import SAM2ImagePredictor
from .refiners import SAM2Refiner, SAM2RefinerConfig
from .sam2 import SAM2
from .video_predictor import SAM2VideoPredictor

__all__ = [
    "PRESETS",
    "SAM2",
    "CheckpointError",
    "HieraConfig",
    "ImageFeatures",
    "SAM2Config",
    "SAM2ImagePredictor",
    "SAM2Refiner",
    "SAM2RefinerConfig",
    "SAM2VideoPredictor",
    "build_model",
    "load_model",
    "load_refiner",
    "save_model",
    "save_refiner",
]
