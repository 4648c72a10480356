"""Reading official checkpoints: files of PyTorch or safetensors, folders of them, or a Hugging Face id."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from sam2refiner_jax.checkpoints import (
    CheckpointError,
    Weights,
    check_finite,
    check_shapes,
    describe_refiner,
    describe_weights,
    few,
    is_checkpoint,
)
from sam2refiner_jax.config import PRESETS, HieraConfig, SAM2Config, TrunkConfig, ViTConfig
from sam2refiner_jax.refiners import REFINERS

from .files import INSTALL_HINT, as_array, first_line, open_tensors
from .naming import JOINED, official_key, our_layout, torch_axes

__all__ = ["OfficialModel", "find_tensors", "read_model", "read_official", "recognise", "weights_from_official"]

# Every SAM 2 model has it, and its shape tells their sizes.
PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
# Parts of a name that wrappers of modules put in: DataParallel, torch.compile, FSDP, activation checkpointing.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Under which names a file keeps its model rather than another: averages of it, a teacher.
USUAL_NAMES = {"model", "state_dict", "model_state_dict", "sam2_model", "sam2"}
# Repositories on Hugging Face whose file is not named after them.
FILES = {"lkeab/hq-sam": "sam2.1_hq_hiera_large.pt"}


@dataclasses.dataclass(frozen=True)
class OfficialModel:
    """What an official checkpoint holds, in our layout.

    Attributes:
      config: of the model.
      weights: of the model, without a refiner's.
      refiner: the configuration and the weights of the refiner that the file holds as well; None if it holds none.
    """

    config: SAM2Config
    weights: Weights
    refiner: tuple[Any, Weights] | None = None


def read_official(source: str | os.PathLike[str], preset: str | None = None) -> tuple[SAM2Config, Weights]:
    """The configuration and the weights of the model in an official checkpoint, as `read_model` finds them."""
    found = read_model(source, preset)
    return found.config, found.weights


def read_model(source: str | os.PathLike[str], preset: str | None = None) -> OfficialModel:
    """What an official checkpoint holds: a model of SAM 2 or EfficientTAM, or one of HQ-SAM 2, a model and a refiner.

    Strict: every tensor of the model's dictionary is used once, every parameter of the model is filled, all shapes are
    right, all numbers finite. The model may lie under other names in the file (`find_tensors`).

    Args:
      source: path of a .pt or .safetensors file, of the index of one in several files, or of a folder that holds one of
        these; or a Hugging Face id such as "facebook/sam2.1-hiera-tiny" or "lkeab/hq-sam".
      preset: the preset that the model is of; told from the tensors unless given, and from the file's name where
        tensors cannot tell (`recognise`).

    Raises:
      CheckpointError: naming what is wrong with it.
      ValueError: if no preset has that name.
    """
    path = _local_file(source)
    try:
        if is_checkpoint(path):
            raise CheckpointError("this is a checkpoint directory already; it is loaded as it is")
        return model_from_official(find_tensors(open_tensors(path)), preset, file_name=path.stem)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def weights_from_official(tensors: dict[str, Any], preset: str | None = None) -> tuple[SAM2Config, Weights]:
    """The same for tensors in memory, such as a PyTorch model's `state_dict()`.

    Empties `tensors` on the way: each is let go as soon as its copy is made, so that a large checkpoint need not fit
    in memory twice.

    Args:
      tensors: of PyTorch, NumPy or a file (`StoredTensor`), by their official names.
      preset: see `read_model`.

    Raises:
      CheckpointError: listing missing, surplus and wrongly shaped tensors; naming one with NaN or infinities.
    """
    found = model_from_official(tensors, preset)
    return found.config, found.weights


def model_from_official(tensors: dict[str, Any], preset: str | None = None, *, file_name: str = "") -> OfficialModel:
    """The same with the refiner, if the tensors of one are among them."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    config = recognise(tensors, file_name) if preset is None else PRESETS[preset]
    parts = [("", describe_weights(config))]
    expected = _keys(*parts[0])
    surplus = tensors.keys() - expected.keys()
    kind = None
    for each in JOINED if surplus else ():  # an official model's own tensors are no reason to look further
        part = _joined(each, config)
        keys = _keys(*part)
        if surplus & keys.keys():
            kind = each
            parts.append(part)
            expected |= keys
    check_shapes(expected, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    weights, *refiners = [_pop_weights(tensors, *part) for part in parts]
    return OfficialModel(config, weights, None if kind is None else (REFINERS[kind].Config(), refiners[0]))


def _pop_weights(tensors: dict[str, Any], prefix: str, described: Mapping[str, nnx.Variable]) -> Weights:
    return {
        path: our_layout(_pop_as_float32(tensors, prefix + official_key(path)), torch_axes(path, weight))
        for path, weight in described.items()
    }


def _joined(kind: str, base: SAM2Config) -> tuple[str, dict[str, nnx.Variable]]:
    """What precedes the names of a refiner's tensors in a checkpoint that holds the base too, and its weights."""
    return JOINED[kind], describe_refiner(REFINERS[kind].Config(), base)


def _keys(prefix: str, described: Mapping[str, nnx.Variable]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors by their official names."""
    return {
        prefix + official_key(path): tuple(weight.shape[axis] for axis in torch_axes(path, weight))
        for path, weight in described.items()
    }


def find_tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    """A SAM 2 model's tensors by their official names, from wherever they lie in what a file holds.

    They are told by the names' ends: in nested dictionaries ("model", "state_dict"), behind a prefix ("sam2_model."),
    with the parts that wrappers of modules put into names ("module.", "_orig_mod.").

    Args:
      content: tensors by name, possibly in nested dictionaries.

    Raises:
      CheckpointError: if there is no such model, or several, of which none lies under a usual name.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for place, tensors in _dictionaries(content, ()):
        for key in tensors:
            if key == PATCHES or key.endswith("." + PATCHES):
                prefix = key.removesuffix(PATCHES)
                found[".".join((*place, prefix.rstrip("."))).strip(".")] = (prefix, tensors)
    if len(found) > 1:
        usual = [name for name in found if USUAL_NAMES.issuperset(name.split(".") if name else ())]
        if len(usual) != 1:
            raise CheckpointError(f"the file holds several SAM 2 models: {few(list(found))}; it must hold one")
        found = {usual[0]: found[usual[0]]}
    if not found:
        raise CheckpointError(_what_else([t for _, tensors in _dictionaries(content, ()) for t in tensors.items()]))
    prefix, tensors = next(iter(found.values()))
    named = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise CheckpointError(f"the file holds tensors of one name with and without {prefix!r} before it")
    return named


def _dictionaries(
    content: Mapping[Any, Any], place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every dictionary with tensors in it, the names under which it lies, its own names without wrappers' parts."""
    tensors: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _dictionaries(value, (*place, str(key)))
            continue
        name = ".".join(part for part in str(key).split(".") if part not in WRAPPERS)
        if name in tensors:
            raise CheckpointError(f"the file holds {name} with and without a wrapper's name in it")
        tensors[name] = value
    if tensors:
        yield place, tensors


def _what_else(tensors: list[tuple[str, Any]]) -> str:
    """Why these are no SAM 2 model's."""
    names = [name for name, _ in tensors]
    if any(name.startswith(("vision_encoder.", "shared_image_embedding.")) for name in names):
        return "this is a checkpoint in the format of the transformers library; use the official .pt of the model"
    if any("compress_vit_feat." in name for name in names):
        return "this is a checkpoint of HQ-SAM 1 (compress_vit_feat), not of HQ-SAM 2 (sam2.1_hq_hiera_large.pt)"
    if any(name.endswith("image_encoder.patch_embed.proj.weight") for name in names):
        return "this is a checkpoint of the first Segment Anything, not of SAM 2"
    shown = few([f"{name} {tuple(tensor.shape)}" for name, tensor in tensors]) or "no tensor"
    return f"these are not the tensors of a SAM 2 model: expected {PATCHES} among them, got {shown}"


def recognise(tensors: Mapping[str, Any], file_name: str = "") -> SAM2Config:
    """The preset whose checkpoint these tensors are, told from their names and shapes.

    Several have the same tensors: of these the one that the file is named after, or else the first. Those of
    EfficientTAM attend to memories in different ways, so there the file's name must say which it is.

    Args:
      tensors: by their official names.
      file_name: of the file that they lie in, without its suffix.

    Raises:
      CheckpointError: if they are of no model, or of one of several that nothing tells apart.
    """
    if PATCHES not in tensors:
        raise CheckpointError(_what_else(list(tensors.items())))
    shape = tensors[PATCHES].shape
    width, patch = shape[0], shape[-1]
    blocks = {match[1] for key in tensors if (match := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", key))}
    is_sam21 = "no_obj_embed_spatial" in tensors or "obj_ptr_tpos_proj.weight" in tensors
    trunks = {name: _sizes_of_trunk(config.trunk) for name, config in PRESETS.items()}
    fitting = {
        name: PRESETS[name]
        for name, sizes in trunks.items()
        if sizes == (len(blocks), width, patch) and PRESETS[name].no_obj_embed_spatial == is_sam21
    }
    if not fitting:
        known = {"{} from {} and {}".format(*sizes) for sizes in trunks.values() if sizes}
        raise CheckpointError(
            f"no SAM 2 model has a trunk of {len(blocks)} blocks that starts with {width} channels and patches of side "
            f"{patch}; known are {', '.join(sorted(known))}"
        )
    if file_name in fitting:
        return fitting[file_name]
    if len({config.memory_pooling for config in fitting.values()}) > 1:
        raise CheckpointError(
            f"its tensors are those of {', '.join(fitting)} alike, which attend to memories in different ways: convert "
            "it with --preset NAME, or give the file the name of the one that it is"
        )
    return next(iter(fitting.values()))


def _sizes_of_trunk(trunk: TrunkConfig) -> tuple[int, int, int] | None:
    """Blocks, first channels and side of the patches; None of a trunk that no official checkpoint has."""
    match trunk:
        case HieraConfig():
            return sum(trunk.stages), trunk.embed_dim, 7
        case ViTConfig():
            return trunk.depth, trunk.embed_dim, 16
    return None


def _local_file(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in (".pt", ".safetensors"):
        return path
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise CheckpointError(f"downloading {source} needs huggingface_hub: {INSTALL_HINT}") from error
    # facebook/sam2.1-hiera-base-plus holds sam2.1_hiera_base_plus.pt, and so do the other seven.
    filename = FILES.get(str(source), path.name.replace("-", "_") + ".pt")
    try:
        return Path(hf_hub_download(str(source), filename))
    except Exception as error:
        raise CheckpointError(
            f"{source} is no local file, and {filename} cannot be downloaded from Hugging Face: {first_line(error)} "
            '("nano" is a small model that comes with the package)'
        ) from error


def _pop_as_float32(tensors: dict[str, Any], key: str) -> np.ndarray:
    tensor = tensors.pop(key)
    try:
        array = as_array(tensor) if hasattr(tensor, "detach") else np.asarray(tensor)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise CheckpointError(f"{key} must hold floating-point numbers, got {array.dtype}")
    array = array.astype(np.float32, copy=False)
    check_finite(key, array)
    return array
