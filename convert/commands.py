"""The commands `sam2refiner convert` and `sam2refiner export`."""

from pathlib import Path

from tyro.conf import Positional

from sam2refiner_jax.checkpoints import is_refiner

from .writing import convert_checkpoint, export_checkpoint, export_refiner

__all__ = ["convert", "export"]


def convert(source: Positional[str], output_dir: Positional[Path]) -> None:
    """Turn an official PyTorch checkpoint into a directory that JAX loads.

    Args:
      source: An official .pt, a .safetensors of the same tensors, or a Hugging Face id (facebook/sam2.1-hiera-tiny).
      output_dir: The directory to write; it must not exist yet.
    """
    config = convert_checkpoint(source, output_dir)
    print(f"{config.name}: written to {output_dir}")


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
