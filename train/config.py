"""What a training run is made of, as frozen dataclasses; every field is a flag of `sam2refiner train`."""

import dataclasses
import json
import operator
from typing import Any

from ..config import dataclass_from_dict
from ..refiners import SAM2RefinerConfig
from ..refiners.base import kind_of, read_refiner_config
from ..settings import differing

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "LoraConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PromptConfig",
    "TrainConfig",
    "config_differences",
]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model to train.

    Attributes:
      name: a preset, for fresh weights; ignored where a checkpoint is given.
      checkpoint: anything that `load_model` reads.
      refiner: configuration of the refiner to train, of any registered kind. A checkpoint's own refiner is trained on
        if it is of this kind, and must have this configuration then, or if this is None. Without either there is none.
      fresh_refiner: begin with fresh weights of the refiner even if the checkpoint has one of its kind.
      image_size: side of the model's input in pixels; the preset's or checkpoint's own unless given.
      dtype: computation type, "float32" or "bfloat16"; what is trained is stored in float32 either way.
      load: parts to take from other checkpoints of models of the same sizes, each PART=CHECKPOINT, with PART as
        `trainable` names it or a pattern of dotted names of weights, such as "*.trunk.*=DIR".
    """

    name: str = "sam2.1_hiera_l"
    checkpoint: str | None = None
    refiner: Any = dataclasses.field(default_factory=SAM2RefinerConfig)
    fresh_refiner: bool = False
    image_size: int | None = None
    dtype: str = "bfloat16"
    load: tuple[str, ...] = ()

    def __post_init__(self):
        if self.fresh_refiner and self.refiner is None:
            raise ValueError("fresh_refiner must be False where refiner is None, got True")


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What happens to images at random.

    Attributes:
      flip: mirror half of them.
      jitter: range of the scale of large-scale jitter: the image's longer side becomes this many times the input's
        side; what is larger than the input is cropped, what is smaller is padded. None squeezes images whole into the
        input, as the predictor does.
      squeeze: share of images of which a random part, from half of each side to all of it, is squeezed into the input
        instead: objects as the predictor sees those of wide and tall images.
      rotate: most degrees that an image is turned by, either way; what comes in at its edges is mirrored.
      colour: how far brightness, contrast, saturation and each channel may change, as a share of what they are; 0
        leaves colours alone.
    """

    flip: bool = True
    jitter: tuple[float, float] | None = (0.1, 2.0)
    squeeze: float = 0.0
    rotate: float = 0.0
    colour: float = 0.0

    def __post_init__(self):
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate must be from 0 to 180 degrees, got {self.rotate}")
        if not 0 <= self.squeeze <= 1:
            raise ValueError(f"squeeze must be from 0 to 1, got {self.squeeze}")
        if not 0 <= self.colour < 1:
            raise ValueError(f"colour must be at least 0 and less than 1, got {self.colour}")
        if self.jitter is not None and not 0 < self.jitter[0] <= self.jitter[1]:
            raise ValueError(f"jitter must be a range of positive scales, got {self.jitter}")


@dataclasses.dataclass(frozen=True)
class DataConfig(AugmentConfig):
    """Images with masks, and what happens to them at random: the fields of `AugmentConfig` too.

    Attributes:
      sources: where they are, such as "hqseg44k:DIR"; see `sam2refiner_jax.data`. "@0.5" at the end weighs a
        source against the others, each of which has weight 1; unweighted, every image has the same chance.
      images: how many images there are, to turn epochs into steps before the data is at hand.
      paste: share of the images onto which an object of another is pasted before they are augmented.
      objects: masks of each image that are learned at once, each from prompts of its own, for one pass of the encoder.
        Sources that know of fewer objects in an image repeat them; in clips their places stay empty.
      frames: of each clip that is learned from; 0 learns from photos. With any, photos among the sources are clips of
        one frame, in steps of their own.
      photos_per_clip: photos of a step of photos, for each clip of a step of clips: with as many as a clip has frames,
        both cost about the same.
      reverse: share of the clips that are played backwards.
      workers: processes that read and augment images; 0 does it in threads of the training process.
    """

    _: dataclasses.KW_ONLY
    sources: tuple[str, ...] = ()
    images: int | None = None
    paste: float = 0.0
    objects: int = 1
    frames: int = 0
    photos_per_clip: int = 1
    reverse: float = 0.0
    workers: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.frames < 0:
            raise ValueError(f"frames must not be negative, got {self.frames}")
        if not 0 <= self.reverse <= 1:
            raise ValueError(f"reverse must be from 0 to 1, got {self.reverse}")
        if self.photos_per_clip < 1 or (self.photos_per_clip > 1 and self.frames < 2):
            raise ValueError(
                f"photos_per_clip must be at least 1, and 1 unless frames is at least 2, "
                f"got {self.photos_per_clip} with {self.frames} frames"
            )
        if self.frames and self.paste:
            raise ValueError(f"paste must be 0 for clips, got {self.paste}")
        if self.objects < 1:
            raise ValueError(f"objects must be at least 1, got {self.objects}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")
        if not 0 <= self.paste <= 1:
            raise ValueError(f"paste must be from 0 to 1, got {self.paste}")


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """The mix of prompts, sampled anew for every image.

    Attributes:
      box: relative frequency of boxes.
      points: of random points.
      mask: of coarse masks.
      box_and_points: of boxes with points.
      box_noise: standard deviation of a box's edges, relative to its sides.
      max_box_noise: the most that an edge moves, in pixels of a 1024-pixel input.
      max_points: an object with points has at most this many.
      min_points: and at least this many.
      negative_points: share of the points after the first that lie off the object, near it.
      noisy_masks: give masks as HQ-SAM does: right but for noise along their boundary, and 0 or 255; otherwise they are
        logits, blurred, shifted and uneven.
      divided: share of the objects with points of which a part is clicked away, so that negative clicks mean what they
        touch: one click is on the object, a negative one elsewhere on it, and what is nearer to the first is wanted.
      corrections: rounds in which a click on the larger kind of error, missed or surplus, and the mask before it are
        added to the prompt, as a user would; the losses of SAM 2's own masks are averaged over them.
      corrected: on how many frames of a clip objects that began with clicks or a box get so many corrections, at most:
        the first, and up to so many less one of the others. Masks are taken as they are, and get none.
    """

    box: float = 1.0
    points: float = 1.0
    mask: float = 1.0
    box_and_points: float = 0.0
    box_noise: float = 0.1
    max_box_noise: float = 20.0
    max_points: int = 10
    min_points: int = 1
    negative_points: float = 0.3
    noisy_masks: bool = False
    divided: float = 0.0
    corrections: int = 0
    corrected: int = 2

    def __post_init__(self):
        if self.corrections < 0:
            raise ValueError(f"corrections must not be negative, got {self.corrections}")
        if self.corrected < 1:
            raise ValueError(f"corrected must be at least 1, got {self.corrected}")
        mix = (self.box, self.points, self.mask, self.box_and_points)
        if min(mix) < 0 or sum(mix) <= 0:
            raise ValueError(f"box, points, mask and box_and_points must not be negative nor all zero, got {mix}")
        if not 1 <= self.min_points <= self.max_points:
            raise ValueError(
                f"min_points must be at least 1, and max_points at least that; got {self.min_points}, {self.max_points}"
            )
        if not 0 <= self.divided <= 1:
            raise ValueError(f"divided must be from 0 to 1, got {self.divided}")
        if self.divided and self.max_points < 2:
            raise ValueError(f"max_points must be at least 2 where objects are divided, got {self.max_points}")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss; a part of weight 0 is not computed.

    Attributes:
      final: BCE + Dice of the refined mask.
      auxiliary: BCE + Dice of each of the refiner's intermediate masks.
      coarse: BCE + Dice of SAM 2's own masks: the single one, and the best of three. For training the base.
      iou: error of the predicted IoU of SAM 2's masks: squared in photos, absolute in clips. For training the base.
      object_score: BCE of the score that says the object is in the image. For training the base.
      focal: of clips, the focal loss of SAM 2's own masks; of three masks, that of the one with the lowest loss.
      dice: of clips, the Dice loss of the same masks.
      points: at how many points of a mask `final` and `auxiliary` are taken, three quarters of them where three times
        as many random ones found it most uncertain (PointRend, as HQ-SAM); 0 for all pixels.
      blends: SAM-REF's losses of what a refiner blends, at each round of clicks (`blend_losses`).
      error_target: what error maps are to show: "mistakes", the pixels where the mask that is there is wrong, as
        SAM-REF's text says of them; or "boundary", a band along the edge of the true mask, as FocalClick.
    """

    final: float = 1.0
    auxiliary: float = 0.3
    coarse: float = 0.0
    iou: float = 0.0
    object_score: float = 0.0
    focal: float = 0.0
    dice: float = 0.0
    points: int = 0
    blends: float = 0.0
    error_target: str = "mistakes"

    def __post_init__(self):
        if self.points < 0:
            raise ValueError(f"points must not be negative, got {self.points}")
        if self.error_target not in ("mistakes", "boundary"):
            raise ValueError(f"error_target must be 'mistakes' or 'boundary', got {self.error_target!r}")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay, or with drops.

    Attributes:
      learning_rate: the highest.
      warmup_steps: steps of the warm-up.
      final_learning_rate: the last one, relative to the highest.
      drops: shares of the run after each of which the learning rate falls to a tenth; given any, it does not fall
        otherwise.
      weight_decay: of matrices and kernels; biases, norms and embeddings have none.
      layer_decay: the trunk's blocks learn more slowly the earlier they are: each at this share of the next one's rate.
      encoder_rate: learning rate of trunk and neck, relative to that of the other parts.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      clip_norm: largest global norm of the gradient; None for any.
      ema: decay of the exponential moving average of the weights, which is then what evaluation and the saved model
        use; None has none.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 500
    final_learning_rate: float = 0.01
    drops: tuple[float, ...] = ()
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    encoder_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float | None = 1.0
    ema: float | None = None

    def __post_init__(self):
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be more than 0 and at most 1, got {self.layer_decay}")
        if not self.encoder_rate > 0:
            raise ValueError(f"encoder_rate must be positive, got {self.encoder_rate}")
        if any(not 0 < drop < 1 for drop in self.drops):
            raise ValueError(f"drops must be shares of the run between 0 and 1, got {self.drops}")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (`sam2refiner_jax/adapters.py`) of matrices that are frozen themselves.

    Attributes:
      rank: of their products; 0 for none.
      alpha: the products are scaled by alpha / rank.
      parts: of the model whose matrices get them, by the names that `trainable` takes.
      match: which of these matrices: a pattern of their dotted names, such as "*.attn.*".
    """

    rank: int = 0
    alpha: float = 16.0
    parts: tuple[str, ...] = ("encoder",)
    match: str = "*"

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"rank must not be negative, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}")

    @property
    def scale(self) -> float:
        """What the products are multiplied by."""
        return self.alpha / max(self.rank, 1)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
      model: the model.
      data: what it learns from.
      eval_data: what it is evaluated on; nothing without sources.
      evaluators: what is measured there, by registered names (`register_evaluator`): masks from boxes ("box"), from
        one to three clicks ("points"). The panels are the first one's.
      prompts: the mix of prompts.
      loss: the parts of the loss.
      optimizer: the optimizer.
      trainable: the parts of the model that learn: "refiner", "decoder" (with "object_score", which can learn without
        it), "prompt_encoder", "encoder" ("trunk" and "neck"), "memory" ("memory_attention" and "memory_encoder"), or
        "all" these. Photos teach nothing of a video's memory. May be empty where adapters learn.
      lora: adapters, which learn besides. If nothing else does, the result is `adapters/` alone.
      batch_size: images or clips a step, of all devices together.
      accumulate: parts into which each step's batch is cut, one after the other, for less memory.
      epochs: how often every image is seen.
      steps: number of steps, instead of epochs.
      model_parallel: devices over which each weight is sharded; the others replicate it.
      seed: of everything random.
      log_every: steps between lines of the log.
      panel_every: steps between pictures of photo, prompt, coarse, refined and true mask.
      eval_every: steps between evaluations.
      eval_images: how many images of `eval_data` are looked at.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: how many of them are kept.
      profile: steps of which a profiler's trace is written into `profile/`, from the third of a sitting on; 0 for none.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    eval_data: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = ("box",)
    prompts: PromptConfig = PromptConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    trainable: tuple[str, ...] = ("refiner",)
    lora: LoraConfig = LoraConfig()
    batch_size: int = 32
    accumulate: int = 1
    epochs: float | None = 20.0
    steps: int | None = None
    model_parallel: int = 1
    seed: int = 0
    log_every: int = 50
    panel_every: int = 1000
    eval_every: int = 1000
    eval_images: int = 64
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    profile: int = 0

    def __post_init__(self):
        for name in ("batch_size", "accumulate", "model_parallel", "log_every", "panel_every", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.profile < 0:
            raise ValueError(f"profile must not be negative, got {self.profile}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size {self.batch_size}, got {self.accumulate}")
        if self.steps is None and self.epochs is None:
            raise ValueError("epochs or steps must be given, got neither")

    def total_steps(self, images: int | None = None) -> int:
        """Number of steps.

        Args:
          images: how many images there are, if that is known.

        Raises:
          ValueError: if only epochs are given and nobody knows how many images there are.
        """
        if self.steps is not None:
            return self.steps
        images = self.data.images if images is None else images
        if images is None:
            raise ValueError("steps, or data.images to go with epochs, must be given where the data is not at hand")
        assert self.epochs is not None
        return max(1, round(self.epochs * images / self.batch_size))

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values that JSON can hold."""
        values = dataclasses.asdict(self)
        refiner = self.model.refiner
        if refiner is not None:
            values["model"]["refiner"] = {"kind": kind_of(refiner), "config": dataclasses.asdict(refiner)}
        return json.loads(json.dumps(values))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`; fields that are not there, as in files of earlier versions, have their defaults.

        Raises:
          ValueError: on a field that this version does not know, or a value that is none of its field's.
        """
        model = values.get("model")
        refiner = model.get("refiner") if isinstance(model, dict) else None
        if refiner is not None:
            if not isinstance(refiner, dict) or refiner.keys() != {"kind", "config"}:
                raise ValueError(f"model.refiner must have kind and config, got {refiner!r}")
            refiner = read_refiner_config(refiner["kind"], refiner["config"])
            values = {**values, "model": {**values["model"], "refiner": refiner}}
        return dataclass_from_dict(cls, values)


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Where two configurations, as plain values, differ: one line a field."""
    differences = sorted(differing(old, new), key=operator.itemgetter(0))
    return [f"{name}: was {before!r}, is now {after!r}" for name, before, after in differences]
