"""A small run for the tests of training; as a script, the run itself in a process of its own.

    python training.py WORKDIR RUN

`RUN` is a JSON object of what `config_of` takes, and of "distributed" for one of several processes.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from orbax.checkpoint import v1 as ocp
from PIL import Image
from scenes import numbered_frames, write_annotations, write_frames

from sam2refiner_jax.config import PRESETS, HieraConfig, SAM2Config, register_preset
from sam2refiner_jax.refiners import HQSAM2Config, SAM2RefinerConfig
from sam2refiner_jax.train.config import DataConfig, LossConfig, ModelConfig, OptimizerConfig, PromptConfig, TrainConfig

TINY = "test_tiny"
if TINY not in PRESETS:
    register_preset(
        SAM2Config(
            name=TINY,
            trunk=HieraConfig(embed_dim=8, stages=(1, 1, 1, 1), global_att_blocks=(2,), window_spec=(8, 4, 4, 2)),
            image_size=64,
            hidden_dim=32,
            memory_dim=8,
            mlp_dim=32,
            memory_layers=1,
        )
    )
# One of few weights, as each takes part in tracing and compiling the optimizer; and a part of the paper's, made small.
REFINER = HQSAM2Config()
UNET_REFINER = SAM2RefinerConfig(False, False, block_dims=(16, 8, 8), upscale_dims=(8, 8))


def make_pairs(folder: Path, count: int = 24, size: tuple[int, int] = (80, 96)) -> Path:
    """A folder of images and masks: bright ellipses and boxes on noise."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        height, width = size
        mask = np.zeros(size, np.uint8)
        centre = (int(rng.integers(30, width - 30)), int(rng.integers(25, height - 25)))
        if i % 2:
            cv2.ellipse(mask, centre, (int(rng.integers(12, 26)), int(rng.integers(10, 22))), 0, 0, 360, 255, -1)
        else:
            x, y = centre
            mask[y - 12 : y + 14, x - 18 : x + 16] = 255
        noise = rng.integers(0, 90, (*size, 3))
        image = np.where(mask[..., None] > 0, 255 - noise // 2, noise).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{i:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i:03d}.png")
    return folder


def tiny_config(pairs: Path, refiner: Any = REFINER, **changes) -> TrainConfig:
    """A run of six steps that trains the refiner of the tiny model."""
    config = TrainConfig(
        model=ModelConfig(TINY, refiner=refiner, dtype="float32"),
        data=DataConfig(sources=(f"folder:{pairs}",)),
        prompts=PromptConfig(max_points=3),
        loss=LossConfig(),
        optimizer=OptimizerConfig(warmup_steps=2),
        batch_size=8,
        epochs=None,
        steps=6,
        log_every=1,
        checkpoint_every=2,
        keep_checkpoints=3,
    )
    return TrainConfig.from_dict(merge(config.to_dict(), changes))


def make_clips(folder: Path, count: int = 3, frames: int = 4) -> Path:
    """Folders of frames and of their numbered masks."""
    clip = numbered_frames(frames)
    for number in range(count):
        write_frames(folder / "JPEGImages" / f"clip{number}", clip)
        write_annotations(folder / "Annotations" / f"clip{number}", clip)
    return folder


def clip_config(clips: Path, **changes) -> TrainConfig:
    """A run of four steps from clips of two frames, given first masks: memory and object score of the tiny model."""
    config = TrainConfig(
        model=ModelConfig(TINY, refiner=None, dtype="float32"),
        data=DataConfig(sources=(f"clips:{clips}",), jitter=None, frames=2, reverse=0.5),
        prompts=PromptConfig(box=0.0, points=0.0, mask=1.0),
        loss=LossConfig(final=0.0, auxiliary=0.0, focal=20.0, dice=1.0, iou=1.0, object_score=1.0),
        optimizer=OptimizerConfig(warmup_steps=1),
        trainable=("memory", "object_score"),
        batch_size=2,
        epochs=None,
        steps=4,
        log_every=1,
        checkpoint_every=2,
    )
    return TrainConfig.from_dict(merge(config.to_dict(), changes))


def config_of(kind: str, folder: str, **changes) -> TrainConfig:
    """A run by its kind, "pairs", "unet" or "clips"; changes are fields in the form of a configuration's `to_dict`."""
    if kind == "clips":
        return clip_config(Path(folder), **changes)
    return tiny_config(Path(folder), {"pairs": REFINER, "unet": UNET_REFINER}[kind], **changes)


def merge(values: dict, changes: dict) -> dict:
    return values | {k: merge(values[k], v) if isinstance(v, dict) else v for k, v in changes.items()}


def state_after(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """What a run's checkpoint of a step holds, by place and name."""
    folder = (workdir / "checkpoints" / f"step_{step}").absolute()
    return ocp.load(folder, dict.fromkeys(ocp.metadata(folder).metadata, np.ndarray))


def find_processes_at_localhost() -> None:
    """Lets gloo listen there, not at the address of this machine's name, which not every machine knows."""
    from jax._src import xla_bridge

    start = xla_bridge._jax.make_gloo_tcp_collectives
    xla_bridge._jax.make_gloo_tcp_collectives = functools.partial(start, hostname="localhost")


if __name__ == "__main__":
    import logging

    import jax

    from sam2refiner_jax.train.distributed import join
    from sam2refiner_jax.train.loop import Preempted, train

    logging.basicConfig(level=logging.INFO)
    arguments = json.loads(sys.argv[2])
    if arguments.pop("distributed", False):
        find_processes_at_localhost()
        join()
    folder = Path(sys.argv[1])
    print(f"devices: {jax.device_count()}")
    try:
        train(config_of(**arguments), folder, progress=False)
    except Preempted as stopped:
        print(f"preempted: {stopped}")
