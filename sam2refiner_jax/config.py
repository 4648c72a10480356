"""Configurations of SAM 2 models and the registry of presets.

Only what differs between the released models, or what a researcher would vary, is a field; the official constructor's
other flags have one value in all eight released configurations and are part of the code.
"""

import dataclasses
import types
from typing import Any, ClassVar, Union, get_args, get_origin

__all__ = [
    "HieraConfig",
    "PRESETS",
    "SAM2Config",
    "TRUNKS",
    "TrunkConfig",
    "ViTConfig",
    "dataclass_from_dict",
    "get_config",
    "register_preset",
]

# How memory attention reads the maps of earlier frames.
POOLINGS = ("none", "logits", "keys")


@dataclasses.dataclass(frozen=True)
class TrunkConfig:
    """Base of the configurations of trunks: its type says which trunk is built (`nn.image_encoder.register_trunk`).

    Attributes:
      kind: the registered name, by which files tell one type from another.
    """

    kind: ClassVar[str]

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Strides of the trunk's outputs, highest resolution first."""
        raise NotImplementedError

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Their channels."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values that JSON can hold, `kind` included."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrunkConfig":
        """The inverse of `to_dict`; files of earlier versions, which say no kind, know Hiera alone.

        Raises:
          ValueError: on a kind that is not registered, or a field that it does not have.
        """
        kind = values.get("kind", "hiera")
        if kind not in TRUNKS:
            raise ValueError(f"trunk.kind must be one of {', '.join(TRUNKS)}, got {kind!r}")
        return dataclass_from_dict(TRUNKS[kind], {name: value for name, value in values.items() if name != "kind"})


# The type of the configuration of each registered kind of trunk.
TRUNKS: dict[str, type[TrunkConfig]] = {}


@dataclasses.dataclass(frozen=True)
class HieraConfig(TrunkConfig):
    """The Hiera trunk (https://arxiv.org/abs/2306.00989) as SAM 2 uses it.

    Attributes:
      embed_dim: channels of the first stage; doubled at every later one.
      num_heads: attention heads of the first stage; doubled at every later one.
      stages: number of blocks of each of the four stages (strides 4, 8, 16, 32).
      global_att_blocks: indices of the blocks that attend over the whole image instead of within windows.
      window_spec: window side of each stage, in tokens.
      window_pos_embed_bkg_spatial_size: side of the learned positional embedding that is stretched over the image.
    """

    embed_dim: int = 96
    num_heads: int = 1
    stages: tuple[int, int, int, int] = (1, 2, 7, 2)
    global_att_blocks: tuple[int, ...] = (5, 7, 9)
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (7, 7)

    @property
    def stage_strides(self) -> tuple[int, int, int, int]:
        """Strides of the four stage outputs, highest resolution first."""
        return (4, 8, 16, 32)

    @property
    def stage_dims(self) -> tuple[int, int, int, int]:
        """Their channels."""
        d = self.embed_dim
        return (d, 2 * d, 4 * d, 8 * d)


@dataclasses.dataclass(frozen=True)
class ViTConfig(TrunkConfig):
    """A plain ViT of one resolution, most of whose blocks attend within windows (https://arxiv.org/abs/2203.16527).

    EfficientTAM (https://arxiv.org/abs/2411.18933) has it in Hiera's place. The defaults are its smaller model's.

    Attributes:
      embed_dim: channels.
      num_heads: attention heads.
      depth: number of blocks.
      global_att_blocks: indices of the blocks that attend over the whole image instead of within windows.
      window_size: side of the windows, in tokens of 16 x 16 pixels.
      pos_embed_size: side of the learned positional embedding that is stretched over the image.
    """

    embed_dim: int = 192
    num_heads: int = 3
    depth: int = 12
    global_att_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window_size: int = 14
    pos_embed_size: int = 14

    @property
    def stage_strides(self) -> tuple[int]:
        """The only output's stride."""
        return (16,)

    @property
    def stage_dims(self) -> tuple[int]:
        """Its channels."""
        return (self.embed_dim,)


@dataclasses.dataclass(frozen=True)
class SAM2Config:
    """A whole SAM 2 model.

    Attributes:
      name: the preset it came from, for messages and saved files.
      trunk: the image encoder's trunk; its type says which (`HieraConfig`, `ViTConfig`, or one of your own).
      image_size: side of the square input in pixels; a multiple of 32.
      hidden_dim: channels of the neck, the prompt encoder and the mask decoder.
      memory: whether it has the parts that only videos need. Without them it is a model for photos, such as `Sam2Model`
        of the transformers library saves.
      memory_dim: channels of the memory features.
      mlp_dim: channels inside the MLPs of the mask decoder's transformer and of memory attention.
      memory_layers: layers of memory attention.
      num_maskmem: memories that a frame can attend to, its prompted frame included.
      max_obj_ptrs_in_encoder: object pointers that a frame can attend to.
      memory_pooling: how a frame attends to memories of more than one frame. "none": to each place. "logits" and
        "keys": to the means of 2 x 2 places, each to weigh as much as the four, by log 4 that is added to its logits,
        or to every channel of its key. The latter two are EfficientTAM's models `_1` and `_2`.
      no_obj_embed_spatial: SAM 2.1's embedding that marks memories of frames without the object.
      obj_ptr_temporal_encoding: SAM 2.1's projected, signed temporal encoding of object pointers.
      dynamic_multimask_via_stability: in single-mask mode, replace an unstable mask by the best of the three others.
      dynamic_multimask_stability_delta: logit offset of the two thresholds whose masks' IoU is the stability score.
      dynamic_multimask_stability_thresh: stability score below which the mask is replaced.
    """

    name: str = "sam2.1_hiera_t"
    trunk: TrunkConfig = HieraConfig()
    image_size: int = 1024
    hidden_dim: int = 256
    memory: bool = True
    memory_dim: int = 64
    mlp_dim: int = 2048
    memory_layers: int = 4
    num_maskmem: int = 7
    max_obj_ptrs_in_encoder: int = 16
    memory_pooling: str = "none"
    no_obj_embed_spatial: bool = True
    obj_ptr_temporal_encoding: bool = True
    dynamic_multimask_via_stability: bool = True
    dynamic_multimask_stability_delta: float = 0.05
    dynamic_multimask_stability_thresh: float = 0.98

    def __post_init__(self):
        if self.image_size <= 0 or self.image_size % 32:
            raise ValueError(f"image_size must be a positive multiple of 32, got {self.image_size}")
        if self.memory_layers < 1:
            raise ValueError(f"memory_layers must be at least 1, got {self.memory_layers}")
        if self.memory_pooling not in POOLINGS:
            raise ValueError(f"memory_pooling must be one of {', '.join(POOLINGS)}, got {self.memory_pooling!r}")

    @property
    def embedding_size(self) -> int:
        """Side of the stride-16 feature map that the mask decoder reads."""
        return self.image_size // 16

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask logits and of mask prompts (stride 4)."""
        return self.image_size // 4

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values that JSON can hold."""
        return dataclasses.asdict(self) | {"trunk": self.trunk.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SAM2Config":
        """The inverse of `to_dict`, also from parsed JSON.

        Raises:
          ValueError: on a field this version does not know.
        """
        return dataclass_from_dict(cls, values)


def dataclass_from_dict(cls: Any, values: Any) -> Any:
    """A dataclass from plain values; nested ones from nested dictionaries, tuples from lists.

    Raises:
      ValueError: on a field that it does not have, or a value that is none of the field's type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{cls.__name__} must be made of a dictionary of fields, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(fields)}")
    arguments = {}
    for name, value in values.items():
        kind: Any = fields[name].type
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            value = kind.from_dict(value) if hasattr(kind, "from_dict") else dataclass_from_dict(kind, value)
        value = tuple(value) if isinstance(value, list) else value
        value = float(value) if kind is float and type(value) is int else value
        if not _is_of(value, kind):
            raise ValueError(f"{cls.__name__}.{name} must be {_name_of(kind)}, got {value!r}")
        arguments[name] = value
    return cls(**arguments)


def _is_of(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type; of tuples of any length every item is looked at, not one at random."""
    from beartype.door import is_bearable  # it takes half a second, and only files need it

    kinds = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is_of(value, kind) for kind in kinds)
    if get_origin(annotation) is tuple and kinds[1:] == (Ellipsis,):
        return isinstance(value, tuple) and all(_is_of(item, kinds[0]) for item in value)
    return is_bearable(value, annotation)


def _name_of(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


PRESETS: dict[str, SAM2Config] = {}


def register_preset(config: SAM2Config) -> SAM2Config:
    """Makes `config` known to `build_model` under `config.name`."""
    if config.name in PRESETS:
        raise ValueError(f"a preset named {config.name!r} exists already")
    PRESETS[config.name] = config
    return config


def get_config(name: str) -> SAM2Config:
    """The preset called `name`.

    Raises:
      ValueError: naming the known presets, if there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"name must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


_TRUNKS = {
    "t": HieraConfig(),
    "s": HieraConfig(stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13)),
    "b+": HieraConfig(
        embed_dim=112,
        num_heads=2,
        stages=(2, 3, 16, 3),
        global_att_blocks=(12, 16, 20),
        window_pos_embed_bkg_spatial_size=(14, 14),
    ),
    "l": HieraConfig(
        embed_dim=144,
        num_heads=2,
        stages=(2, 6, 36, 4),
        global_att_blocks=(23, 33, 43),
        window_spec=(8, 4, 16, 8),
    ),
}
for _size, _trunk in _TRUNKS.items():
    register_preset(SAM2Config(name=f"sam2.1_hiera_{_size}", trunk=_trunk))
    register_preset(
        SAM2Config(
            name=f"sam2_hiera_{_size}", trunk=_trunk, no_obj_embed_spatial=False, obj_ptr_temporal_encoding=False
        )
    )

# EfficientTAM's have the memory of SAM 2, not of 2.1.
for _size, _vit in {"s": ViTConfig(embed_dim=384, num_heads=6), "ti": ViTConfig()}.items():
    for _suffix, _image_size, _pooling in (
        ("", 1024, "none"),
        ("_512x512", 512, "none"),
        ("_1", 1024, "logits"),
        ("_2", 1024, "keys"),
    ):
        register_preset(
            SAM2Config(
                name=f"efficienttam_{_size}{_suffix}",
                trunk=_vit,
                image_size=_image_size,
                memory_pooling=_pooling,
                no_obj_embed_spatial=False,
                obj_ptr_temporal_encoding=False,
            )
        )

# Small enough to train on a CPU and to come with the package; no official weights of this size exist.
register_preset(
    SAM2Config(
        name="sam2_nano",
        trunk=HieraConfig(embed_dim=32, stages=(1, 2, 6, 2), global_att_blocks=(4, 6, 8), window_spec=(8, 4, 8, 8)),
        image_size=384,
        hidden_dim=128,
        memory_dim=32,
        mlp_dim=512,
    )
)
