"""The README.md beside exported weights: what they are, how to load them, under which terms."""

import importlib.metadata

from sam2refiner_jax.config import PRESETS, SAM2Config

from .transformers_config import hiera_of, is_of_videos

__all__ = ["CHECKPOINTS_CARD", "model_card"]

# What the people who trained a checkpoint say of it, in the checkpoint's folder.
CHECKPOINTS_CARD = "MODEL_CARD.md"


def model_card(config: SAM2Config, parameters: int, *, card: bool = False, refiner: str | None = None) -> str:
    """The README.md of a folder in the format of the transformers library, with the metadata that the Hub reads.

    Args:
      config: of the model.
      parameters: how many numbers it has.
      card: whether the checkpoint's own card lies beside it.
      refiner: the kind of the refiner that was left out, if the checkpoint has one.

    Raises:
      CheckpointError: if the library has no such model.
    """
    videos = is_of_videos(config)
    released = config.name.startswith(("sam2_hiera_", "sam2.1_hiera_")) and config.name in PRESETS and not card
    tags = ["sam2", "segment-anything", "image-segmentation", *(["video-segmentation"] if videos else []), "jax"]
    head = [
        "---",
        f"license: {'apache-2.0' if released else 'other'}",
        "library_name: transformers",
        "pipeline_tag: mask-generation",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    return "\n".join([*head, "", *_body(config, parameters, refiner), "", *_terms(released, card)]) + "\n"


def _body(config: SAM2Config, parameters: int, refiner: str | None) -> list[str]:
    videos, size = is_of_videos(config), config.image_size
    hiera = hiera_of(config)
    trunk = f"Hiera trunk of {sum(hiera.stages)} blocks from {hiera.embed_dim} channels"
    lines = [
        f"# {config.name}",
        "",
        "Weights of SAM 2 in the format of the transformers library, exported from a checkpoint of sam2refiner_jax "
        f"{importlib.metadata.version('sam2refiner_jax')}.",
        "",
        "| | |",
        "|---|---|",
        f"| architecture | SAM 2 ([paper](https://arxiv.org/abs/2408.00714)), `{config.name}`: {trunk} |",
        f"| parameters | {parameters / 1e6:.2f} M, float32 |",
        f"| input | {size} x {size} pixels, to which photos are squeezed |",
        f"| for | {'photos and videos' if videos else 'photos'} |",
    ]
    if config.memory and not videos:
        lines += [
            "",
            f"The weights of its memory are in the file, but `Sam2VideoModel` cannot take them: its memories have 64 "
            f"channels, these {config.memory_dim}. sam2refiner_jax reads them.",
        ]
    if refiner is not None:
        lines += [
            "",
            f"The refiner `{refiner}` of that checkpoint, which makes its masks finer, is not in this folder.",
        ]
    return [*lines, "", "## Load", "", *_loading(videos, config.memory)]


def _loading(videos: bool, memory: bool) -> list[str]:
    lines: list[str] = []
    for prefix in ("Sam2", "Sam2Video") if videos else ("Sam2",):
        lines += [
            "```python",
            f"from transformers import {prefix}Model, {prefix}Processor",
            "",
            f'model = {prefix}Model.from_pretrained("FOLDER")',
            f'processor = {prefix}Processor.from_pretrained("FOLDER")',
            "```",
            "",
        ]
    predictors = ("SAM2ImagePredictor", "SAM2VideoPredictor") if memory else ("SAM2ImagePredictor",)
    return [
        *lines,
        "```python",
        f"from sam2refiner_jax import {', '.join(predictors)}, load_model",
        "",
        'model = load_model("FOLDER")',
        *(f"predictor = {each}(model)" for each in predictors),
        "```",
    ]


def _terms(released: bool, card: bool) -> list[str]:
    if card:
        terms = (
            f"[{CHECKPOINTS_CARD}]({CHECKPOINTS_CARD}) says what these weights were trained on, and on what terms they "
            "are given."
        )
    elif released:
        terms = (
            "Meta publishes SAM 2, its code and its weights, under Apache-2.0. If these weights were trained further, "
            "say here on what, and correct `license` above where other terms follow from it."
        )
    else:
        terms = "Whoever trained these weights says here on what, and gives their terms under `license` above."
    return ["## Licence", "", terms]
