"""Official PyTorch weights in, PyTorch weights out."""

from .naming import official_key
from .reading import read_official, weights_from_official
from .writing import convert_checkpoint, export_checkpoint

__all__ = ["convert_checkpoint", "export_checkpoint", "official_key", "read_official", "weights_from_official"]
