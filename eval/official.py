"""The official PyTorch package `sam2` as a segmenter and as a tracker, where it is installed."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .segmenters import Answer
from .trackers import PredictorTracker
from .truth_prompts import Prompt

__all__ = ["OfficialSegmenter", "open_official_segmenter", "open_official_tracker"]


class OfficialSegmenter:
    """The official `SAM2ImagePredictor`; one mask for each prompt, never the best of three.

    Args:
      predictor: of the official package.
      name: in reports.
    """

    kinds: tuple[str, ...] = ("mask",)
    batch_size = 1

    def __init__(self, predictor: Any, name: str):
        self.name = name
        self._predictor = predictor
        size = predictor.model.image_size
        predictor._bb_feat_sizes = [(size // stride, size // stride) for stride in (4, 8, 16)]  # it knows only 1024

    def settings(self) -> dict[str, Any]:
        return {"segmenter": f"official {self.name}"}

    def encode(self, photos: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> None:
        self._predictor.set_image(np.ascontiguousarray(photos[0]))

    def segment(self, encoded: None, prompts: Sequence[Prompt | None], kind: str) -> list[Answer | None]:
        return [None if prompt is None else self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Prompt) -> Answer:
        prompt = prompt.for_model(self._predictor.model.sam_prompt_encoder.mask_input_size[0])
        masks, _, logits = self._predictor.predict(
            point_coords=prompt.coordinates,
            point_labels=prompt.labels,
            box=prompt.corners,
            mask_input=prompt.logits,
            multimask_output=False,
        )
        return Answer(masks[0] > 0, logits)


def open_official_segmenter(checkpoint: str) -> OfficialSegmenter:
    """The official image predictor with the weights of an official .pt.

    Raises:
      ValueError: if the package, or what it needs, is not installed, or the checkpoint is none of its.
    """
    config = _config_file(checkpoint)
    try:
        from sam2.build_sam import build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    model = build_sam2(config, checkpoint, device=_device())
    return OfficialSegmenter(SAM2ImagePredictor(model), Path(checkpoint).name)


def open_official_tracker(checkpoint: str) -> PredictorTracker:
    """The official video predictor with the weights of an official .pt.

    Raises:
      ValueError: if the package, or what it needs, is not installed, or the checkpoint is none of its.
    """
    config = _config_file(checkpoint)
    try:
        from sam2.build_sam import build_sam2_video_predictor
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    predictor = build_sam2_video_predictor(config, checkpoint, device=_device())
    name = Path(checkpoint).name
    return PredictorTracker(predictor, name, {"official": name}, offload_video_to_cpu=True)


def _not_installed(error: ModuleNotFoundError) -> ValueError:
    return ValueError(f"the segmenter sam2 needs {error.name}, which is not installed: pip install sam2 torchvision")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _config_file(checkpoint: str) -> str:
    """The package's name for the configuration of a checkpoint, which its weights tell."""
    if not Path(checkpoint).is_file():
        raise ValueError(f"the segmenter sam2 needs the official .pt on disk, got {checkpoint}")
    (reader,) = importlib.metadata.entry_points(group="sam2refiner_jax.checkpoint_readers", name="official")
    name = reader.load()(checkpoint).config.name
    return f"configs/{name.split('_')[0]}/{name}.yaml"
