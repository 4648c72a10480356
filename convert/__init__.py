"""Official PyTorch weights in, PyTorch weights out."""

from .naming import official_key
from .reading import OfficialModel, read_model, read_official, weights_from_official
from .writing import compare_weights, convert_checkpoint, export_checkpoint, export_refiner

__all__ = [
    "OfficialModel",
    "compare_weights",
    "convert_checkpoint",
    "export_checkpoint",
    "export_refiner",
    "official_key",
    "read_model",
    "read_official",
    "weights_from_official",
]
