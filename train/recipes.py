"""Recipes of training runs; each says only what is special about it."""

import dataclasses

from ..refiners import HQSAM2Config, SAM2RefinerConfig, SAMRefConfig
from .config import DataConfig, LossConfig, ModelConfig, OptimizerConfig, PromptConfig, TrainConfig

__all__ = ["NANO_REFINER", "RECIPES", "Recipe", "register_recipe"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A run and what it is for, in one line."""

    config: TrainConfig
    purpose: str


RECIPES: dict[str, Recipe] = {}


def register_recipe(name: str, purpose: str, config: TrainConfig) -> TrainConfig:
    """Makes a run known as `sam2refiner train NAME`.

    Raises:
      ValueError: if the name is taken.
    """
    if name in RECIPES:
        raise ValueError(f"a recipe named {name!r} exists already")
    RECIPES[name] = Recipe(config, purpose)
    return config


HQSEG44K = register_recipe(
    "hqseg44k",
    "the paper's recipe: the refiner of SAM 2.1 L on HQSeg-44K",
    TrainConfig(
        model=ModelConfig("sam2.1_hiera_l", checkpoint="facebook/sam2.1-hiera-large"),
        data=DataConfig(sources=("hqseg44k:data/hqseg44k",), images=44_320, workers=8),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        epochs=20.0,
        batch_size=32,
    ),
)

# HQ-SAM's own training, which the release of HQ-SAM 2 says it extends; what it changed for SAM 2 is not known.
register_recipe(
    "hqseg44k_hq",
    "HQ-SAM's recipe: the refiner hq_sam2 of SAM 2.1 L on HQSeg-44K",
    dataclasses.replace(
        HQSEG44K,
        model=dataclasses.replace(HQSEG44K.model, refiner=HQSAM2Config()),
        prompts=PromptConfig(box_noise=0.0, min_points=10, negative_points=0.0, noisy_masks=True),
        loss=LossConfig(final=0.0, auxiliary=1.0, points=112 * 112),  # of the token's own mask, not of the sum
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=0, drops=(10 / 12,), weight_decay=0.0, clip_norm=None
        ),
        epochs=12.0,
    ),
)

# SAM-REF's two stages with its numbers of steps and its batch; clicks as in its simulation, the first inside at random,
# the others where the mask is wrong. The learning rate is ours, for a network that begins from nothing.
SAM_REF_CLICKS = PromptConfig(box=0.0, points=1.0, mask=0.0, max_points=1, negative_points=0.0, corrections=3)
SAM_REF_DECODER = register_recipe(
    "sam_ref_decoder",
    "SAM-REF's first stage: the mask decoder of SAM 2.1 L learns series of clicks on HQSeg-44K",
    dataclasses.replace(
        HQSEG44K,
        model=dataclasses.replace(HQSEG44K.model, refiner=None),
        prompts=SAM_REF_CLICKS,
        loss=LossConfig(final=0.0, auxiliary=0.0, coarse=1.0, iou=1.0),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        trainable=("decoder",),
        batch_size=4,
        epochs=None,
        steps=320_000,
    ),
)
SAM_REF = register_recipe(
    "sam_ref",
    "SAM-REF's second stage: the refiner sam_ref; give --model.checkpoint of the first",
    dataclasses.replace(
        SAM_REF_DECODER,
        model=dataclasses.replace(HQSEG44K.model, refiner=SAMRefConfig()),
        loss=LossConfig(final=0.0, auxiliary=0.0, blends=1.0),
        optimizer=OptimizerConfig(learning_rate=5e-4),
        trainable=("refiner",),
        steps=80_000,
    ),
)

register_recipe(
    "folder",
    "the same for your own folder of images and masks, with SAM 2.1 T: give --data.sources folder:DIR",
    dataclasses.replace(
        HQSEG44K,
        model=ModelConfig("sam2.1_hiera_t", checkpoint="facebook/sam2.1-hiera-tiny"),
        data=DataConfig(workers=2),
        batch_size=4,
    ),
)

# Everything learns: SAM 2's own outputs and the refiner's.
BASE_LOSS = LossConfig(final=0.0, auxiliary=0.0, coarse=1.0, iou=1.0, object_score=0.1)

# Eight images with four objects each: the encoder, most of a step's time, runs once for the four.
NANO_BASE = register_recipe(
    "nano_base",
    "a small SAM 2 from scratch, at a third of its input size, on procedural images and what real ones are given",
    TrainConfig(
        model=ModelConfig("sam2_nano", refiner=None, image_size=128, dtype="float32"),
        data=DataConfig(sources=("procedural:?size=160",), jitter=(0.8, 1.6), objects=4, workers=1),
        prompts=PromptConfig(box=3.0, points=1.5, mask=0.0, box_and_points=1.0, max_points=4, corrections=1),
        loss=BASE_LOSS,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=500, weight_decay=0.05, ema=0.999),
        trainable=("encoder", "decoder", "prompt_encoder"),
        batch_size=8,
        epochs=None,
        steps=7000,
    ),
)

NANO_GROWN = register_recipe(
    "nano_grown",
    "the small SAM 2 at two thirds of its input size, or with --model.image-size 384 at all: give --model.checkpoint",
    dataclasses.replace(
        NANO_BASE,
        model=ModelConfig("sam2_nano", refiner=None, image_size=256, dtype="float32"),
        data=dataclasses.replace(NANO_BASE.data, sources=("procedural:?size=320",), squeeze=0.7, colour=0.25),
        prompts=dataclasses.replace(NANO_BASE.prompts, divided=0.3),
        optimizer=dataclasses.replace(NANO_BASE.optimizer, learning_rate=6e-4, warmup_steps=100, ema=0.998),
        steps=3000,
    ),
)

# The paper's refiner with narrower layers.
NANO_REFINER = SAM2RefinerConfig(
    augment_mlp_dim=256, retarget_mlp_dim=512, block_dims=(96, 64, 32), upscale_dims=(24, 16), residual_mask=True
)

register_recipe(
    "nano_refiner",
    "the refiner of the small SAM 2, whose base is frozen: give --model.checkpoint",
    dataclasses.replace(
        NANO_GROWN,
        model=ModelConfig("sam2_nano", refiner=NANO_REFINER, dtype="float32"),
        data=dataclasses.replace(NANO_GROWN.data, objects=2),
        prompts=PromptConfig(box=3.0, points=1.5, mask=0.5, box_and_points=1.0, divided=0.3),
        loss=LossConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, ema=0.99),
        trainable=("refiner",),
        steps=1000,
    ),
)

register_recipe(
    "nano_hq_sam2",
    "HQ-SAM 2's head of the small SAM 2, whose base is frozen: give --model.checkpoint",
    dataclasses.replace(
        RECIPES["nano_refiner"].config,
        model=ModelConfig("sam2_nano", refiner=HQSAM2Config(), dtype="float32"),
        loss=RECIPES["hqseg44k_hq"].config.loss,
    ),
)

register_recipe(
    "nano_sam_ref",
    "SAM-REF of the small SAM 2, whose base is frozen: give --model.checkpoint",
    dataclasses.replace(
        NANO_GROWN,
        model=ModelConfig("sam2_nano", refiner=SAMRefConfig(), dtype="float32"),
        data=dataclasses.replace(NANO_GROWN.data, objects=2),
        prompts=dataclasses.replace(SAM_REF_CLICKS, corrections=2),
        loss=SAM_REF.loss,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, ema=0.99),
        trainable=("refiner",),
        steps=1000,
    ),
)

# SAM 2's losses of videos, and its prompts there: the mask for half of the objects, else a box or a click, corrected on
# one or two frames.
CLIP_LOSS = LossConfig(final=0.0, auxiliary=0.0, focal=20.0, dice=1.0, iou=1.0, object_score=1.0)
CLIP_PROMPTS = PromptConfig(
    box=1.0, points=1.0, mask=2.0, max_points=1, negative_points=0.0, corrections=7, corrected=2
)

# The official fine-tuning (`sam2.1_hiera_b+_MOSE_finetune.yaml`): its losses, rates, decays, sizes and numbers. Ours
# has no dropout and no drop path, jitters scale instead of shearing, and prompts one frame at the start.
SAV = register_recipe(
    "sav",
    "the official fine-tuning on videos with SAM 2.1 B+: give --data.sources clips:DIR of SA-V, MOSE or others",
    TrainConfig(
        model=ModelConfig("sam2.1_hiera_b+", checkpoint="facebook/sam2.1-hiera-base-plus", refiner=None),
        data=DataConfig(jitter=(0.8, 1.25), rotate=25.0, colour=0.1, objects=3, frames=8, workers=8),
        prompts=CLIP_PROMPTS,
        loss=CLIP_LOSS,
        optimizer=OptimizerConfig(
            learning_rate=5e-6,
            warmup_steps=0,
            final_learning_rate=0.1,
            weight_decay=0.1,
            layer_decay=0.9,
            encoder_rate=0.6,
            clip_norm=0.1,
        ),
        trainable=("encoder", "prompt_encoder", "decoder", "memory"),
        batch_size=8,
        epochs=40.0,
    ),
)

register_recipe(
    "clips",
    "the same for your own clips with SAM 2.1 T, its encoder frozen: give --data.sources clips:DIR",
    dataclasses.replace(
        SAV,
        model=ModelConfig("sam2.1_hiera_t", checkpoint="facebook/sam2.1-hiera-tiny", refiner=None),
        data=dataclasses.replace(SAV.data, reverse=0.5, workers=2),
        optimizer=dataclasses.replace(SAV.optimizer, layer_decay=1.0, encoder_rate=1.0),
        trainable=("prompt_encoder", "decoder", "memory"),
        batch_size=1,
    ),
)

register_recipe(
    "nano_tracks",
    "the memory of the small SAM 2 from scratch, on procedural scenes that move; what photos taught is frozen",
    TrainConfig(
        model=ModelConfig("sam2_nano", checkpoint="nano", refiner=None, image_size=128, dtype="float32"),
        data=DataConfig(
            sources=("procedural-clips:?size=160",), jitter=(0.8, 1.25), objects=2, frames=6, reverse=0.5, workers=1
        ),
        prompts=PromptConfig(box=0.0, points=0.0, mask=1.0),
        loss=CLIP_LOSS,
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=200, weight_decay=0.05, ema=0.998),
        trainable=("memory", "object_score"),
        batch_size=3,
        epochs=None,
        steps=3000,
    ),
)

# Of few photos or clips, for some minutes: the small model as it is in the package learns them besides what it knows.
register_recipe(
    "nano_photos",
    "the small SAM 2 of the package on a few photos of your own: give --data.sources folder:DIR",
    TrainConfig(
        model=ModelConfig("sam2_nano", checkpoint="nano", refiner=NANO_REFINER, image_size=256, dtype="float32"),
        data=DataConfig(jitter=(0.5, 2.0), squeeze=0.5, rotate=15.0, colour=0.25, objects=4, workers=1),
        prompts=PromptConfig(box=3.0, points=1.5, mask=0.5, box_and_points=1.0),
        loss=LossConfig(coarse=1.0, iou=1.0, object_score=0.1),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=10, ema=0.98),
        trainable=("decoder", "refiner"),
        batch_size=4,
        epochs=None,
        steps=120,
        log_every=10,
        checkpoint_every=40,
    ),
)
register_recipe(
    "nano_clips",
    "the small SAM 2 of the package on a few clips of your own: give --data.sources clips:DIR",
    dataclasses.replace(
        RECIPES["nano_tracks"].config,
        model=ModelConfig("sam2_nano", checkpoint="nano", refiner=None, image_size=256, dtype="float32"),
        data=dataclasses.replace(RECIPES["nano_tracks"].config.data, sources=(), rotate=10.0, colour=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=5, weight_decay=0.05, ema=0.95),
        trainable=("memory", "decoder"),
        batch_size=1,
        steps=80,
        log_every=10,
        checkpoint_every=40,
    ),
)

register_recipe(
    "smoke",
    "a few steps of everything, within a minute or two on a laptop",
    dataclasses.replace(
        NANO_BASE,
        model=ModelConfig("sam2_nano", refiner=NANO_REFINER, image_size=64, dtype="float32"),
        data=DataConfig(sources=("procedural:?size=96",)),
        eval_data=("procedural:?size=96&seed=1",),
        prompts=PromptConfig(),
        loss=dataclasses.replace(BASE_LOSS, final=1.0, auxiliary=0.3),
        trainable=("encoder", "decoder", "prompt_encoder", "refiner"),
        batch_size=8,
        steps=20,
        log_every=5,
        eval_every=10,
        panel_every=10,
        eval_images=8,
        checkpoint_every=10,
    ),
)
