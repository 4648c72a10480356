"""The commands `sam2refiner convert` and `sam2refiner export`."""

import tempfile
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from sam2refiner_jax.checkpoints import (
    BUNDLED,
    REFINER_FOLDER,
    few,
    is_checkpoint,
    is_refiner,
    load_model,
    load_weights,
    read_refiner,
    save_model,
)
from sam2refiner_jax.refiners.base import kind_of
from sam2refiner_jax.serving.export import PLATFORMS, export_programs

from .reading import read_official
from .transformers_config import is_of_videos
from .writing import compare_weights, convert_checkpoint, export_checkpoint, export_refiner, export_transformers

__all__ = ["convert", "export"]


def convert(
    source: Positional[str], output_dir: Positional[Path], *, base: str | None = None, preset: str | None = None
) -> None:
    """Turn an official PyTorch checkpoint, or one of transformers, into a directory that JAX loads.

    Args:
      source: An official .pt, a .safetensors of the same tensors, a folder of the transformers library (Sam2Model,
        Sam2VideoModel), or a Hugging Face id (facebook/sam2.1-hiera-tiny, lkeab/hq-sam).
      output_dir: The directory to write; it must not exist yet.
      base: Another checkpoint of the model, such as the official one beside HQ-SAM 2's, to say whether the weights are
        the same.
      preset: The name of the model (efficienttam_s_1), where neither its tensors nor the file's name say it.
    """
    other = None if base is None else read_official(base, preset)[1]
    config = convert_checkpoint(source, output_dir, preset=preset)
    refiner = output_dir / REFINER_FOLDER
    joined = f" with its refiner {kind_of(read_refiner(refiner)[0])}" if is_checkpoint(refiner) else ""
    alone = "" if config.memory else " without a memory, for photos alone"
    print(f"{config.name}{joined}{alone}: written to {output_dir}")
    if other is not None:
        differences = compare_weights(load_weights(output_dir)[1], other)
        each = few([f"{name} by up to {distance:.1e}" for name, distance in differences.items()])
        print(f"weights that differ from {base}: {len(differences)} of {len(other)}{each and ': ' + each}")


def export(
    checkpoint: Positional[Path],
    output: Positional[Path],
    *,
    format: Literal["official", "transformers", "stablehlo"] = "official",
    platforms: str = ",".join(PLATFORMS),
    adapters: Path | None = None,
    compile_for: str | None = None,
    images: int = 1,
    objects: int = 1,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Turn a checkpoint directory back into PyTorch weights, official or of transformers, or into programs.

    A refiner becomes a PyTorch state dict.

    Args:
      checkpoint: A directory written by `sam2refiner convert`, `save_model` or `save_refiner`, or "nano".
      output: The .pt to write, or of the transformers format the folder; it must not exist yet.
      format: official is a .pt of the official package; transformers is a folder with model.safetensors, config.json,
        the settings of its processors and a model card, which huggingface_hub can upload as it is; stablehlo is a
        folder of programs that need JAX and NumPy alone, with the weights and what runs them.
      platforms: That programs can run on, some of cpu, cuda and tpu, with commas between.
      adapters: A directory of adapters that were trained for this model, to be merged first.
      compile_for: Write programs compiled too: for v5e, v5p or v6e, which need not be there, or for a device like the
        one here ("here"). They are loaded where the device and the versions of JAX are the same.
      images: Number of images that programs are compiled for.
      objects: Number of objects likewise.
      dtype: Computation type of programs; bfloat16 is the fast mode on GPUs and TPUs.
    """
    if format != "stablehlo" and (compile_for is not None or dtype != "float32"):
        raise ValueError(f"compile_for and dtype are of programs: format must be stablehlo, got {format}")
    if not is_checkpoint(checkpoint):
        checkpoint = BUNDLED.get(str(checkpoint), checkpoint)
    if adapters is not None:
        with tempfile.TemporaryDirectory() as folder:
            merged = Path(folder) / checkpoint.name
            save_model(load_model(checkpoint, adapters=adapters), merged)
            export(
                merged,
                output,
                format=format,
                platforms=platforms,
                compile_for=compile_for,
                images=images,
                objects=objects,
                dtype=dtype,
            )
        return
    if is_refiner(checkpoint):
        if format != "official":
            raise ValueError(f"format must be official for a refiner, which {format} has no place for")
        export_refiner(checkpoint, output)
        print(f"refiner: written to {output}")
    elif format == "stablehlo":
        manifest = export_programs(
            load_model(checkpoint, dtype=dtype),
            output,
            platforms=platforms.split(","),
            compile_for=compile_for,
            images=images,
            objects=objects,
        )
        compiled = f", compiled for {manifest['compiled']['device']}" if "compiled" in manifest else ""
        print(f"{manifest['model']}: {', '.join(manifest['programs'])} written to {output} for {platforms}{compiled}")
    elif format == "official":
        print(f"{export_checkpoint(checkpoint, output).name}: written to {output}")
    else:
        config = export_transformers(checkpoint, output)
        classes = "Sam2Model and Sam2VideoModel" if is_of_videos(config) else "Sam2Model"
        alone = " without its refiner" if is_checkpoint(checkpoint / REFINER_FOLDER) else ""
        print(f"{config.name}{alone}: written to {output} for {classes} of transformers")
