"""Where a checkpoint lies on this machine that is named by a path or by its repository on Hugging Face."""

import os
import re
from pathlib import Path

from sam2refiner_jax.checkpoints import CheckpointError

from .files import INSTALL_HINT, first_line

__all__ = ["TRANSFORMERS_CONFIG", "TRANSFORMERS_WEIGHTS", "local_file"]

# Repositories whose file is not named after them.
FILES = {"lkeab/hq-sam": "sam2.1_hq_hiera_large.pt"}
# What the transformers library calls its files, everywhere.
TRANSFORMERS_CONFIG, TRANSFORMERS_WEIGHTS = "config.json", "model.safetensors"


def local_file(source: str | os.PathLike[str]) -> Path:
    """The path itself, or that of the file that a Hugging Face id stands for, which is downloaded unless it was before.

    A repository's official .pt goes before the tensors of the transformers library, which have their configuration
    beside them.

    Raises:
      CheckpointError: if it cannot be downloaded.
    """
    path = Path(source)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in (".pt", ".safetensors"):
        return path
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(f"downloading {source} needs huggingface_hub: {INSTALL_HINT}") from error
    # facebook/sam2.1-hiera-base-plus holds sam2.1_hiera_base_plus.pt, and so do the other seven.
    filename = FILES.get(str(source), path.name.replace("-", "_") + ".pt")
    wanted = filename
    try:
        try:
            return Path(huggingface_hub.hf_hub_download(str(source), filename))
        except huggingface_hub.errors.EntryNotFoundError:
            wanted = f"{filename} or {TRANSFORMERS_WEIGHTS} beside {TRANSFORMERS_CONFIG}"
            huggingface_hub.hf_hub_download(str(source), TRANSFORMERS_CONFIG)
            return Path(huggingface_hub.hf_hub_download(str(source), TRANSFORMERS_WEIGHTS))
    except Exception as error:
        raise CheckpointError(
            f"{source} is no local file, and {wanted} cannot be downloaded from Hugging Face: {first_line(error)} "
            '("nano" is a small model that comes with the package)'
        ) from error
