"""Official PyTorch weights in, PyTorch weights out."""

from .naming import official_key
from .reading import read_official, weights_from_official
from .writing import convert_checkpoint, export_checkpoint, export_refiner

__all__ = [
    "convert_checkpoint",
    "export_checkpoint",
    "export_refiner",
    "official_key",
    "read_official",
    "weights_from_official",
]
