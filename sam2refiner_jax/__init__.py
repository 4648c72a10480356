"""SAM 2 and SAM2Refiner in JAX."""

from .checkpoints import CheckpointError, build_model, load_model, load_refiner, save_model, save_refiner
from .config import PRESETS, HieraConfig, SAM2Config, TrunkConfig, ViTConfig, register_preset
from .features import ImageFeatures
from .image.mask_generator import SAM2AutomaticMaskGenerator
from .image.predictor import SAM2ImagePredictor
from .nn.image_encoder import register_trunk
from .refiners import HQSAM2Config, Refiner, SAM2Refiner, SAM2RefinerConfig, SAMRefConfig, register_refiner
from .sam2 import SAM2
from .video.exemplars import Exemplar
from .video.policies import MemoryPolicy, register_memory_policy
from .video.predictor import SAM2VideoPredictor

__all__ = [
    # Models and their checkpoints
    "SAM2",
    "SAM2Config",
    "HieraConfig",
    "ViTConfig",
    "PRESETS",
    "register_preset",
    "build_model",
    "load_model",
    "save_model",
    "CheckpointError",
    "ImageFeatures",
    # Trunks
    "TrunkConfig",
    "register_trunk",
    # Photos and videos
    "SAM2ImagePredictor",
    "SAM2AutomaticMaskGenerator",
    "SAM2VideoPredictor",
    "Exemplar",
    "MemoryPolicy",
    "register_memory_policy",
    # Refiners
    "Refiner",
    "register_refiner",
    "SAM2Refiner",
    "SAM2RefinerConfig",
    "SAMRefConfig",
    "HQSAM2Config",
    "load_refiner",
    "save_refiner",
]
