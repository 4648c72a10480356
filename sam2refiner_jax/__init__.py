"""SAM 2 and SAM2Refiner in JAX."""

from .checkpoints import CheckpointError, build_model, load_model, save_model
from .config import PRESETS, HieraConfig, SAM2Config
from .image_predictor import SAM2ImagePredictor
from .sam2 import SAM2, ImageFeatures
from .video_predictor import SAM2VideoPredictor

__all__ = [
    "PRESETS",
    "SAM2",
    "CheckpointError",
    "HieraConfig",
    "ImageFeatures",
    "SAM2Config",
    "SAM2ImagePredictor",
    "SAM2VideoPredictor",
    "build_model",
    "load_model",
    "save_model",
]
