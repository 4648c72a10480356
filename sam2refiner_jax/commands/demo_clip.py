"""The demo's clip: a scene that moves, made up on the spot, tracked from the masks of its first frame."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ..atomic import new_file
from ..data.clip_sources import Clips, ClipSample
from ..data.sources import open_source
from ..image.overlay import draw_overlay
from ..sam2 import SAM2
from ..video.predictor import SAM2VideoPredictor
from ..video.writer import write_video
from .outputs import video_tags

__all__ = ["SCENE", "demo_clip", "size_for_clips", "tracks", "write_demo_clip"]

# A walker with a stick and a bristly ball, between which a car goes; training, on another seed, has not seen them.
SOURCE, NUMBER, FRAMES, OBJECTS = "procedural-clips:?size=384&seed=5", 19, 24, 2
SCENE = f"{SOURCE} {NUMBER}"
FRAMES_A_SECOND = 12


def demo_clip() -> ClipSample:
    """The frames, and the true masks of the objects."""
    source = open_source(SOURCE)
    assert isinstance(source, Clips)
    return source.clip(NUMBER, FRAMES, OBJECTS, np.random.default_rng(0), reverse=False)


def tracks(model: SAM2) -> bool:
    """Whether a model can track: it has a memory, which was trained as far as is known."""
    return model.config.memory and not model.untrained_memory


def size_for_clips(model: SAM2) -> int:
    """The input size at which a model's memory learned, as far as is known; else its own."""
    sizes = [run.image_size for run in model.provenance.runs if run.frames]
    return sizes[-1] if sizes else model.config.image_size


def track_from_first_masks(model: SAM2, clip: ClipSample) -> Bool[np.ndarray, "t n h w"]:
    """The masks that the model makes of the objects in every frame, given those of the first."""
    predictor = SAM2VideoPredictor(model)
    state = predictor.init_state(list(clip["image"]))
    for number, mask in enumerate(np.moveaxis(clip["mask"][0], -1, 0)):
        predictor.add_new_mask(state, 0, number, mask > 127)
    return np.stack([np.asarray(masks)[:, 0] > 0 for _, _, masks in predictor.propagate_in_video(state)])


def write_demo_clip(model: SAM2, target: Path) -> float:
    """Writes the tracked clip as an MP4 with the objects shown.

    Returns:
      The mean IoU of the masks with the true ones, over objects and the frames after the first in which they are seen.
    """
    clip = demo_clip()
    masks, truth = track_from_first_masks(model, clip), np.moveaxis(clip["mask"], -1, 1) > 127
    pictures = [draw_overlay(photo, shown) for photo, shown in zip(clip["image"], masks, strict=True)]
    times = [Fraction(i, FRAMES_A_SECOND) for i in range(len(pictures))]
    with new_file(target, overwrite=True) as partial:
        write_video(partial, enumerate(pictures), times, tags=video_tags(SCENE))
    both, either = ((f(masks, truth)[1:]).sum(axis=(2, 3)) for f in (np.logical_and, np.logical_or))
    seen = truth[1:].any(axis=(2, 3))
    return float(np.mean(both[seen] / either[seen]))
