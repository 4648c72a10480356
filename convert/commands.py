"""The commands `sam2refiner convert` and `sam2refiner export`."""

from pathlib import Path

from tyro.conf import Positional

from sam2refiner_jax.checkpoints import REFINER_FOLDER, few, is_checkpoint, is_refiner, load_weights, read_refiner
from sam2refiner_jax.refiners.base import kind_of

from .reading import read_official
from .writing import compare_weights, convert_checkpoint, export_checkpoint, export_refiner

__all__ = ["convert", "export"]


def convert(
    source: Positional[str], output_dir: Positional[Path], *, base: str | None = None, preset: str | None = None
) -> None:
    """Turn an official PyTorch checkpoint into a directory that JAX loads.

    Args:
      source: An official .pt, a .safetensors of the same tensors, or a Hugging Face id (facebook/sam2.1-hiera-tiny,
        lkeab/hq-sam).
      output_dir: The directory to write; it must not exist yet.
      base: Another checkpoint of the model, such as the official one beside HQ-SAM 2's, to say whether the weights are
        the same.
      preset: The name of the model (efficienttam_s_1), where neither its tensors nor the file's name say it.
    """
    other = None if base is None else read_official(base)[1]
    config = convert_checkpoint(source, output_dir, preset=preset)
    refiner = output_dir / REFINER_FOLDER
    joined = f" with its refiner {kind_of(read_refiner(refiner)[0])}" if is_checkpoint(refiner) else ""
    print(f"{config.name}{joined}: written to {output_dir}")
    if other is not None:
        differences = compare_weights(load_weights(output_dir)[1], other)
        each = few([f"{name} by up to {distance:.1e}" for name, distance in differences.items()])
        print(f"weights that differ from {base}: {len(differences)} of {len(other)}{each and ': ' + each}")


def export(checkpoint: Positional[Path], output: Positional[Path]) -> None:
    """Turn a checkpoint directory back into a .pt of the official format, or a refiner into a PyTorch state dict.

    Args:
      checkpoint: A directory written by `sam2refiner convert`, `save_model` or `save_refiner`.
      output: The .pt to write; it must not exist yet.
    """
    if is_refiner(checkpoint):
        export_refiner(checkpoint, output)
        print(f"refiner: written to {output}")
    else:
        print(f"{export_checkpoint(checkpoint, output).name}: written to {output}")
