"""The command `sam2refiner demo`: the main job on a real photo, from nothing to a picture."""

import importlib.util
import sys
from pathlib import Path

from .checkpoints import CheckpointError, build_model, load_model
from .image_predictor import SAM2ImagePredictor
from .sam2 import SAM2
from .segment import DEFAULT_CHECKPOINT, PhotoPrompts, segment_photo

__all__ = ["demo"]

# A photo that scikit-image ships, of the cat Chelsea, released to the public domain (CC0) by its photographer.
PHOTO = "data/chelsea.png"
PROMPTS = PhotoPrompts(points=((230.0, 150.0, 1),), boxes=((5.0, 2.0, 445.0, 298.0),))


def demo(checkpoint: str | None = None, output: Path = Path("out/demo")) -> None:
    """Segment a photo of a cat from a click and a box, and say where the picture is.

    Args:
      checkpoint: A checkpoint directory, an official .pt or .safetensors, or a Hugging Face id. Without it, the demo
        downloads the smallest official model; without a network, it runs with random weights and says so.
      output: The folder for the results.
    """
    skimage = importlib.util.find_spec("skimage")
    if skimage is None or skimage.origin is None:
        raise ValueError("the demo's photo comes with scikit-image: pip install 'sam2refiner_jax[demo]'")
    photo = Path(skimage.origin).parent / PHOTO
    output.mkdir(parents=True, exist_ok=True)
    model, is_trained = _model(checkpoint)
    overlay = segment_photo(SAM2ImagePredictor(model), photo, PROMPTS, output)
    if not is_trained:
        print("THE WEIGHTS ARE RANDOM: the mask in this picture means nothing; only the program was shown to run.")
    print(f"picture: {overlay}")


def _model(checkpoint: str | None) -> tuple[SAM2, bool]:
    """The model, and whether its weights are trained ones."""
    if checkpoint:
        return load_model(checkpoint), True
    try:
        return load_model(DEFAULT_CHECKPOINT), True
    except CheckpointError as error:
        print(f"no trained model: {error}", file=sys.stderr)
        return build_model("sam2.1_hiera_t"), False
