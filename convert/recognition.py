"""Which model some tensors are of, wherever in a file they lie: told by their names and shapes, or the file's name."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from sam2refiner_jax.checkpoints import CheckpointError, few
from sam2refiner_jax.config import PRESETS, HieraConfig, SAM2Config, TrunkConfig, ViTConfig

from .naming import OFFICIAL, TRANSFORMERS, Naming

__all__ = ["PATCHES", "find_tensors", "have_memory", "naming_of", "recognise"]

# Every SAM 2 model has it, and its shape tells their sizes; by its official name, and by all that it has.
PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
PATCHES_OF = {
    naming.keys("image_encoder.trunk.patch_embed.proj.kernel")[0]: naming for naming in (OFFICIAL, TRANSFORMERS)
}
# Parts of a name that wrappers of modules put in: DataParallel, torch.compile, FSDP, activation checkpointing.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Under which names a file keeps its model rather than another: averages of it, a teacher.
USUAL_NAMES = {"model", "state_dict", "model_state_dict", "sam2_model", "sam2"}


def find_tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    """A SAM 2 model's tensors by their names in its format, from wherever they lie in what a file holds.

    They are told by the names' ends: in nested dictionaries ("model", "state_dict"), behind a prefix ("sam2_model."),
    with the parts that wrappers of modules put into names ("module.", "_orig_mod.").

    Args:
      content: tensors by name, possibly in nested dictionaries.

    Raises:
      CheckpointError: if there is no such model, or several, of which none lies under a usual name.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for place, tensors in _dictionaries(content, ()):
        for key, patches in itertools.product(tensors, PATCHES_OF):
            if key == patches or key.endswith("." + patches):
                prefix = key.removesuffix(patches)
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
        return "this is a checkpoint of the transformers library, but not of its Sam2Model or Sam2VideoModel"
    if any("compress_vit_feat." in name for name in names):
        return "this is a checkpoint of HQ-SAM 1 (compress_vit_feat), not of HQ-SAM 2 (sam2.1_hq_hiera_large.pt)"
    if any(name.endswith("image_encoder.patch_embed.proj.weight") for name in names):
        return "this is a checkpoint of the first Segment Anything, not of SAM 2"
    shown = few([f"{name} {tuple(tensor.shape)}" for name, tensor in tensors]) or "no tensor"
    return f"these are not the tensors of a SAM 2 model: expected {PATCHES} among them, got {shown}"


def recognise(tensors: Mapping[str, Any], preset: str | None = None, *, file_name: str = "") -> SAM2Config:
    """The preset whose checkpoint these tensors are, told from their names and shapes.

    Several have the same tensors: of these the one that the user or the file's name says, or else the first. Those of
    EfficientTAM attend to memories in different ways, so there it must be said.

    Args:
      tensors: by their names in their format.
      preset: the name of the preset that they are said to be of.
      file_name: of the file that they lie in, without its suffix.

    Raises:
      CheckpointError: if they are of no model, of another one than `preset`, or of one of several that nothing tells
        apart.
    """
    memory = naming_of(tensors) is OFFICIAL or have_memory(tensors)
    # A trunk of somebody's own is not told by its sizes; what it lacks is found when its weights are read.
    if preset is None or _sizes_of_trunk(PRESETS[preset].trunk) is not None:
        fitting = _fitting(tensors, memory)
        if preset is not None and preset not in fitting:
            raise CheckpointError(f"preset must be {' or '.join(fitting)}, whose tensors these are, got {preset!r}")
        preset = preset or _told_apart(fitting, file_name)
    return dataclasses.replace(PRESETS[preset], memory=memory)


def _fitting(tensors: Mapping[str, Any], memory: bool) -> list[str]:
    """The presets that may have these tensors, at least one."""
    naming = naming_of(tensors)

    def key(path: str) -> str:
        return naming.keys(path)[0]

    shape = tensors[key("image_encoder.trunk.patch_embed.proj.kernel")].shape
    start = key("image_encoder.trunk.blocks") + "."
    blocks = {name.removeprefix(start).partition(".")[0] for name in tensors if name.startswith(start)}
    found = (len(blocks), shape[0], shape[-1])
    is_sam21 = not tensors.keys().isdisjoint(map(key, ("no_obj_embed_spatial", "obj_ptr_tpos_proj.kernel")))
    sizes = {name: _sizes_of_trunk(config.trunk) for name, config in PRESETS.items()}
    fitting = [
        name
        for name, config in PRESETS.items()
        # Without a memory the two versions are one.
        if sizes[name] == found and (not memory or _is_sam21(config) == is_sam21)
    ]
    if not fitting:
        known = {"{} from {} and {}".format(*known) for known in sizes.values() if known}
        raise CheckpointError(
            "no SAM 2 model has a trunk of {} blocks that starts with {} channels and patches of side {}; known are "
            "{}".format(*found, ", ".join(sorted(known)))
        )
    return fitting


def _told_apart(fitting: list[str], file_name: str) -> str:
    """The one of several presets with the same tensors that the file is named after, or the first if all are alike."""
    if file_name in fitting:
        return file_name
    if len({PRESETS[name].memory_pooling for name in fitting}) > 1:
        raise CheckpointError(
            f"its tensors are those of {', '.join(fitting)} alike, which attend to memories in different ways: convert "
            "it with --preset NAME, or give the file the name of the one that it is"
        )
    return fitting[0]


def _is_sam21(config: SAM2Config) -> bool:
    """Whether it has any of the weights that SAM 2 does not have."""
    return config.no_obj_embed_spatial or config.obj_ptr_temporal_encoding


def _sizes_of_trunk(trunk: TrunkConfig) -> tuple[int, int, int] | None:
    """Blocks, first channels and side of the patches; None of a trunk that no official checkpoint has."""
    match trunk:
        case HieraConfig():
            return sum(trunk.stages), trunk.embed_dim, 7
        case ViTConfig():
            return trunk.depth, trunk.embed_dim, 16
    return None


def naming_of(tensors: Mapping[str, Any]) -> Naming:
    """The format that a SAM 2 model's tensors have their names from.

    Raises:
      CheckpointError: if they are of no SAM 2 model.
    """
    for patches, naming in PATCHES_OF.items():
        if patches in tensors:
            return naming
    raise CheckpointError(_what_else(list(tensors.items())))


def have_memory(tensors: Mapping[str, Any]) -> bool:
    """Whether tensors of the transformers library are of more than a `Sam2Model`, which is for photos alone."""
    return any(name.startswith("memory_") for name in tensors)
