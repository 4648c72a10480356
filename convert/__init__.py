"""Official PyTorch weights and those of transformers in, both out."""

from .naming import official_key
from .reading import OfficialModel, read_model, read_official, weights_from_official
from .writing import compare_weights, convert_checkpoint, export_checkpoint, export_refiner, export_transformers

__all__ = [
    "OfficialModel",
    "compare_weights",
    "convert_checkpoint",
    "export_checkpoint",
    "export_refiner",
    "export_transformers",
    "official_key",
    "read_model",
    "read_official",
    "weights_from_official",
]
