"""The transformers library's configurations of SAM 2 (`Sam2Config`, `Sam2VideoConfig`), from ours and to ours."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sam2refiner_jax.checkpoints import CheckpointError
from sam2refiner_jax.config import PRESETS, HieraConfig, SAM2Config
from sam2refiner_jax.image.preprocess import MEAN, STD

__all__ = [
    "MODEL_TYPES",
    "as_preset",
    "config_from_transformers",
    "hiera_of",
    "is_of_videos",
    "processor_configs",
    "transformers_config",
]

# What `model_type` says the rest of a configuration is of.
MODEL_TYPES = ("sam2", "sam2_video")
# Its `Sam2VideoModel` is written for memories of this many channels, whatever the configuration says.
MEMORY_DIM = 64
# Where our fields stand, by dotted names; a configuration that lacks one has the library's default, SAM 2.1 T's.
_TRUNK = {
    "embed_dim": "vision_config.backbone_config.hidden_size",
    "num_heads": "vision_config.backbone_config.num_attention_heads",
    "stages": "vision_config.backbone_config.blocks_per_stage",
    "global_att_blocks": "vision_config.backbone_config.global_attention_blocks",
    "window_spec": "vision_config.backbone_config.window_size_per_stage",
    "window_pos_embed_bkg_spatial_size": "vision_config.backbone_config.window_positional_embedding_background_size",
}
_PHOTOS = {
    "image_size": "prompt_encoder_config.image_size",
    "hidden_dim": "vision_config.fpn_hidden_size",
    "mlp_dim": "mask_decoder_config.mlp_dim",
    "dynamic_multimask_via_stability": "mask_decoder_config.dynamic_multimask_via_stability",
    "dynamic_multimask_stability_delta": "mask_decoder_config.dynamic_multimask_stability_delta",
    "dynamic_multimask_stability_thresh": "mask_decoder_config.dynamic_multimask_stability_thresh",
}
_VIDEOS = {
    "memory_dim": "memory_encoder_output_channels",
    "memory_layers": "memory_attention_num_layers",
    "num_maskmem": "num_maskmem",
    "max_obj_ptrs_in_encoder": "max_object_pointers_in_encoder",
    "no_obj_embed_spatial": "enable_occlusion_spatial_embedding",
    "obj_ptr_temporal_encoding": "enable_temporal_pos_encoding_for_object_pointers",
}


def is_of_videos(config: SAM2Config) -> bool:
    """Whether `Sam2VideoModel` can be such a model, and not `Sam2Model` alone."""
    return config.memory and config.memory_dim == MEMORY_DIM


def hiera_of(config: SAM2Config) -> HieraConfig:
    """The trunk of a model that the library has.

    Raises:
      CheckpointError: if it has no such model.
    """
    if not isinstance(config.trunk, HieraConfig) or config.memory_pooling != "none":
        raise CheckpointError(
            "a model in the format of transformers must have a Hiera trunk and no pooled memories, got "
            f"{config.name}: {type(config.trunk).__name__}, memory_pooling {config.memory_pooling!r}; the official "
            "format holds it"
        )
    return config.trunk


def transformers_config(config: SAM2Config) -> dict[str, Any]:
    """What the library's `config.json` says of such a model.

    It is a `Sam2VideoConfig`, which `Sam2Model` reads too, where the model can be a `Sam2VideoModel` (`is_of_videos`),
    else a `Sam2Config`.

    Raises:
      CheckpointError: if the library has no such model.
    """
    videos = is_of_videos(config)
    prefix = "sam2_video" if videos else "sam2"
    document: dict[str, Any] = {}
    entries = {
        "architectures": ["Sam2VideoModel" if videos else "Sam2Model"],
        "model_type": prefix,
        "dtype": "float32",
        "vision_config.model_type": "sam2_vision_model",
        "vision_config.backbone_config.model_type": "sam2_hiera_det_model",
        "vision_config.backbone_config.image_size": [config.image_size] * 2,
        "prompt_encoder_config.model_type": f"{prefix}_prompt_encoder",
        "mask_decoder_config.model_type": f"{prefix}_mask_decoder",
        **_of_photos(config),
        **(_of_videos(config) if config.memory else {}),
    }
    for name, value in entries.items():
        *sections, last = name.split(".")
        section = document
        for each in sections:
            section = section.setdefault(each, {})
        section[last] = value
    return document


def processor_configs(config: SAM2Config) -> dict[str, dict[str, Any]]:
    """The files with the settings of the library's `Sam2Processor` or `Sam2VideoProcessor`, by their names.

    In the form that all its versions read: a file for every part. Photos and frames are squeezed to the model's square
    and normalised, as our own predictors do.
    """
    videos = is_of_videos(config)
    square = {"height": config.image_size, "width": config.image_size}
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [round(float(x), 3) for x in MEAN],
        "image_std": [round(float(x), 3) for x in STD],
        "resample": 2,  # bilinear, as Pillow numbers it
        "rescale_factor": 1 / 255,
        "size": square,
    }
    masks = {"mask_size": {"height": config.mask_size, "width": config.mask_size}}
    name = "Sam2VideoProcessor" if videos else "Sam2Processor"
    files = {
        "processor_config.json": {"processor_class": name, "target_size": config.image_size, "point_pad_value": -10},
        "preprocessor_config.json": {
            "image_processor_type": "Sam2ImageProcessorFast",
            "processor_class": name,
            **common,
            **masks,
        },
    }
    if videos:
        of_videos = {"video_processor_type": "Sam2VideoVideoProcessor", "processor_class": name, **common}
        files["video_preprocessor_config.json"] = of_videos
    return files


def config_from_transformers(document: Mapping[str, Any], *, memory: bool) -> SAM2Config:
    """The configuration of ours that a `config.json` of the library describes.

    Its name is the preset's that it is but for the image's size and the memory, or "custom".

    Args:
      document: the parsed file.
      memory: whether the model has a memory, as its tensors tell.

    Raises:
      CheckpointError: if it describes another model, or a SAM 2 that ours cannot be, naming what differs.
    """
    if document.get("model_type") not in MODEL_TYPES:
        raise CheckpointError(f"model_type must be {' or '.join(MODEL_TYPES)}, got {document.get('model_type')!r}")
    found = _leaves(document)
    default = _of_photos(SAM2Config()) | _of_videos(SAM2Config())

    def read(fields: Mapping[str, str]) -> dict[str, Any]:
        return {ours: found.get(theirs, default[theirs]) for ours, theirs in fields.items()}

    try:
        values = {"name": "custom", "trunk": read(_TRUNK), **read(_PHOTOS), **read(_VIDEOS), "memory": memory}
        config = SAM2Config.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(error)) from error
    for name, value in (_of_photos(config) | (_of_videos(config) if memory else {})).items():
        if found.get(name, value) != value:
            raise CheckpointError(f"{name} must be {value!r} for a model of SAM 2 like this one, got {found[name]!r}")
    return next(filter(None, (as_preset(config, name) for name in PRESETS)), config)


def as_preset(config: SAM2Config, name: str) -> SAM2Config | None:
    """The preset of that name, of the image's size and the memory of `config`, if that is what `config` describes.

    Without a memory, the fields that are for videos describe nothing.
    """
    preset = dataclasses.replace(PRESETS[name], image_size=config.image_size, memory=config.memory)
    idle = () if config.memory else _VIDEOS
    named = dataclasses.replace(config, name=name, **{field: getattr(preset, field) for field in idle})
    return preset if named == preset else None


def _leaves(document: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """The entries of nested dictionaries by dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in document.items():
        leaves |= _leaves(value, f"{section}{name}.") if isinstance(value, Mapping) else {f"{section}{name}": value}
    return leaves


def _of_photos(config: SAM2Config) -> dict[str, Any]:
    """Everything in the library's configuration that decides what is made of a photo, by dotted names."""
    size, dim, trunk = config.image_size, config.hidden_dim, hiera_of(config)
    backbone, neck = "vision_config.backbone_config.", "vision_config."
    prompts, decoder = "prompt_encoder_config.", "mask_decoder_config."
    entries = {
        **_written(trunk, _TRUNK),
        **_written(config, _PHOTOS),
        f"{backbone}num_channels": 3,
        f"{backbone}patch_kernel_size": [7, 7],
        f"{backbone}patch_stride": [4, 4],
        f"{backbone}patch_padding": [3, 3],
        f"{backbone}query_stride": [2, 2],
        f"{backbone}num_query_pool_stages": 3,
        f"{backbone}embed_dim_per_stage": list(trunk.stage_dims),
        f"{backbone}num_attention_heads_per_stage": [trunk.num_heads * 2**stage for stage in range(4)],
        f"{backbone}mlp_ratio": 4.0,
        f"{backbone}hidden_act": "gelu",
        f"{backbone}layer_norm_eps": 1e-6,
        f"{neck}backbone_channel_list": list(reversed(trunk.stage_dims)),
        f"{neck}backbone_feature_sizes": [[size // stride] * 2 for stride in (4, 8, 16)],
        f"{neck}fpn_kernel_size": 1,
        f"{neck}fpn_stride": 1,
        f"{neck}fpn_padding": 0,
        f"{neck}fpn_top_down_levels": [2, 3],
        f"{neck}num_feature_levels": 3,
        f"{prompts}hidden_size": dim,
        f"{prompts}patch_size": 16,
        f"{prompts}mask_input_channels": 16,
        f"{prompts}num_point_embeddings": 4,
        f"{prompts}hidden_act": "gelu",
        f"{prompts}layer_norm_eps": 1e-6,
        f"{decoder}hidden_size": dim,
        f"{decoder}hidden_act": "gelu",
        f"{decoder}num_hidden_layers": 2,
        f"{decoder}num_attention_heads": 8,
        f"{decoder}attention_downsample_rate": 2,
        f"{decoder}num_multimask_outputs": 3,
        f"{decoder}iou_head_depth": 3,
        f"{decoder}iou_head_hidden_dim": dim,
    }
    return entries


def _of_videos(config: SAM2Config) -> dict[str, Any]:
    """Everything else in it that decides how an object is tracked."""
    dim = config.hidden_dim
    return {
        **_written(config, _VIDEOS),
        "image_size": config.image_size,
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "multimask_output_in_sam": True,
        "multimask_min_pt_num": 0,
        "multimask_max_pt_num": 1,
        "multimask_output_for_tracking": True,
        "max_cond_frame_num": -1,
        "memory_attention_hidden_size": dim,
        "memory_attention_num_attention_heads": 1,
        "memory_attention_downsample_rate": 1,
        "memory_attention_feed_forward_hidden_size": config.mlp_dim,
        "memory_attention_feed_forward_hidden_act": "relu",
        "memory_attention_rope_feat_sizes": [config.embedding_size] * 2,
        "rope_parameters.rope_type": "axial",
        "rope_parameters.rope_theta": 10000.0,
        "memory_encoder_hidden_size": dim,
        "mask_downsampler_embed_dim": dim,
        "mask_downsampler_kernel_size": 3,
        "mask_downsampler_stride": 2,
        "mask_downsampler_padding": 1,
        "mask_downsampler_total_stride": 16,
        "mask_downsampler_hidden_act": "gelu",
        "memory_fuser_num_layers": 2,
        "memory_fuser_embed_dim": dim,
        "memory_fuser_intermediate_dim": 4 * dim,
        "memory_fuser_kernel_size": 7,
        "memory_fuser_padding": 3,
        "memory_fuser_hidden_act": "gelu",
    }


def _written(config: SAM2Config | HieraConfig, fields: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a configuration under their names there, tuples as lists."""
    values = ((theirs, getattr(config, ours)) for ours, theirs in fields.items())
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}
