"""Building, saving and loading models: an Orbax directory with the configuration beside the weights."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from .atomic import new_directory
from .config import HieraConfig, SAM2Config, get_config
from .nn.initializers import NoKeys
from .nn.weights import storage_dtype
from .provenance import Provenance
from .refiners.base import Refiner, build_refiner, kind_of, read_refiner_config
from .sam2 import SAM2

__all__ = [
    "BUNDLED",
    "CheckpointError",
    "DEFAULT_CHECKPOINT",
    "Weights",
    "abstract_model",
    "build_model",
    "describe_refiner",
    "describe_weights",
    "is_checkpoint",
    "is_refiner",
    "load_model",
    "load_refiner",
    "load_weights",
    "model_from_weights",
    "read_alone",
    "read_provenance",
    "read_refiner",
    "save_model",
    "save_refiner",
    "save_weights",
    "weight_shapes",
    "weights_checksum",
    "weights_of",
    "write_document",
]

# What commands load unless told otherwise.
DEFAULT_CHECKPOINT = "facebook/sam2.1-hiera-tiny"
# Every parameter and buffer of a model by its dotted path, e.g. "image_encoder.trunk.blocks.0.norm1.scale".
Weights = dict[str, np.ndarray | jax.Array]
M = TypeVar("M", bound=nnx.Module)

CONFIG_FILE = "config.json"
WEIGHTS_FOLDER = "weights"
# Where a checkpoint keeps the refiner that belongs to it.
REFINER_FOLDER = "refiner"
FORMAT_VERSION = 1
# Suffixes of files that the converter reads.
TENSOR_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
COMPUTE_DTYPES = (jnp.float32, jnp.bfloat16)
# Checkpoints that come with the package, by the names that `load_model` knows them by.
BUNDLED = {"nano": Path(__file__).parent / "bundled" / "nano"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


def build_model(
    name: str,
    *,
    refiner: Any = None,
    image_size: int | None = None,
    seed: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> SAM2:
    """A model with fresh random weights.

    Args:
      name: a preset, such as "sam2.1_hiera_t".
      refiner: a registered refiner, such as "sam2refiner", or a configuration of one; none unless given.
      image_size: side of the square input in pixels, a multiple of 32; the preset's own (1024) unless given.
      seed: of the random weights.
      dtype: computation type, float32 or bfloat16; the weights are float32 either way, for training.

    Raises:
      ValueError: on an unknown name, refiner, image size or dtype.
    """
    config = _at_size(get_config(name), image_size)
    dtype = _compute_dtype(dtype)
    # The refiner's weights have a seed of their own, so that the base's are the same with and without one.
    made = None if refiner is None else build_refiner(refiner, config, dtype=dtype, rngs=nnx.Rngs(seed + 1))
    return SAM2(config, dtype=dtype, refiner=made, rngs=nnx.Rngs(seed))


def _at_size(config: SAM2Config, image_size: int | None) -> SAM2Config:
    """The configuration with another input size, if one is given."""
    return config if image_size is None else SAM2Config.from_dict({**config.to_dict(), "image_size": image_size})


def load_model(
    source: str | os.PathLike[str],
    *,
    refiner: str | os.PathLike[str] | None = None,
    adapters: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> SAM2:
    """A model with the weights of a checkpoint.

    Args:
      source: a directory written by `save_model` or `sam2refiner convert`; "nano", the small model that comes with
        the package, unless a folder of that name here holds a checkpoint, which is warned of; or, with the `convert`
        extra installed, what `sam2refiner_jax.convert.read_model` reads: an official .pt, a .safetensors of the same
        tensors or of those of the transformers library, a folder of one, or a Hugging Face id such as
        "facebook/sam2.1-hiera-large" or "lkeab/hq-sam".
      refiner: a directory written by `save_refiner`. Unless given, the refiner that `source` was saved with, if any.
      adapters: a directory of adapters that were trained for this model, to be merged (`adapters.py`).
      image_size: side of the square input in pixels, a multiple of 32, instead of the checkpoint's own: positional
        embeddings are stretched as the official model does that is built at another size.
      dtype: computation type, float32 or bfloat16. In bfloat16 the weights of matrix products and convolutions are
        stored so too.

    Raises:
      CheckpointError: if `source`, `refiner` or `adapters` is not such a checkpoint, or the refiner or the adapters are
        for models of other sizes, naming what is wrong.
      ValueError: on an unknown dtype, or a size that cannot be.
    """
    dtype = _compute_dtype(dtype)
    source = _found(source)
    found_refiner: tuple[Any, Weights] | None = None
    provenance = Provenance()
    if is_checkpoint(source):
        config, weights = load_weights(source)
        provenance = read_provenance(source)
        if refiner is None and (Path(source) / REFINER_FOLDER).is_dir():
            refiner = Path(source) / REFINER_FOLDER
    else:
        found = _official_reader()(source)
        config, weights, found_refiner = found.config, found.weights, found.refiner
    if adapters is not None:
        from .adapters import load_adapters, merge_adapters  # which stands on this module

        weights = merge_adapters(weights, load_adapters(adapters))
    config = _at_size(config, image_size)
    model = model_from_weights(config, weights, dtype=dtype)
    model.provenance = provenance
    if refiner is not None:
        return model.with_refiner(load_refiner(refiner, config, dtype=dtype))
    return model if found_refiner is None else model.with_refiner(_filled_refiner(*found_refiner, config, dtype))


def _found(source: str | os.PathLike[str]) -> Path | str:
    """What `source` means: a local checkpoint goes before one of the package's of the same name."""
    bundled = BUNDLED.get(os.fspath(source))
    if bundled is None:
        return os.fspath(source)
    local = Path(source)
    if not (is_checkpoint(local) or (local.is_dir() and any(f.suffix in TENSOR_FILES for f in local.iterdir()))):
        return bundled
    warnings.warn(
        f"{local.absolute()} is loaded, not the model {str(source)!r} that comes with the package ({bundled})",
        stacklevel=3,
    )
    return local


def is_checkpoint(directory: str | os.PathLike[str]) -> bool:
    """Whether a folder is a checkpoint directory of ours, of a model or a refiner, whole or damaged."""
    # Folders of the transformers library have a configuration of that name too.
    return (Path(directory) / CONFIG_FILE).is_file() and (Path(directory) / WEIGHTS_FOLDER).is_dir()


def save_model(model: SAM2, directory: str | os.PathLike[str]) -> None:
    """Writes the model's configuration and weights, its refiner's too, to a new directory; whole or not at all.

    Raises:
      FileExistsError: if `directory` exists already.
    """
    refiner = None if model.refiner is None else _refiner_of(model)
    save_weights(directory, model.config, weights_of(model), refiner=refiner, provenance=model.provenance)


def save_refiner(model: SAM2, directory: str | os.PathLike[str]) -> None:
    """Writes the configuration and weights of the model's refiner alone to a new directory; whole or not at all.

    Raises:
      FileExistsError: if `directory` exists already.
      ValueError: if the model has no refiner, or one without parameters.
    """
    if model.refiner is None:
        raise ValueError("the model has no refiner to save")
    if not _flat_variables(model.refiner):
        raise ValueError("the model's refiner has no parameters to save")
    with new_directory(directory) as partial:
        _write_refiner(partial, model.config, *_refiner_of(model))


def load_refiner(directory: str | os.PathLike[str], base: SAM2Config, *, dtype: DTypeLike = jnp.float32) -> Refiner:
    """A refiner with the weights of a checkpoint, for models of the configuration `base` (`SAM2.with_refiner`).

    Raises:
      CheckpointError: if it is none, is damaged, or was made for models of other sizes.
    """
    config, made_for, weights = read_refiner(directory)
    needed, sizes = _sizes(made_for), _sizes(base)
    if needed != sizes:
        differences = [f"{k} {needed[k]}, the model has {v}" for k, v in sizes.items() if needed[k] != v]
        raise CheckpointError(f"{directory} holds a refiner for other models: it needs {'; '.join(differences)}")
    return _filled_refiner(config, weights, base, _compute_dtype(dtype))


def _filled_refiner(config: Any, weights: Mapping[str, Any], base: SAM2Config, dtype: np.dtype) -> Refiner:
    refiner = _abstract_refiner(config, base, dtype)
    _set_variables(refiner, weights, dtype)
    return refiner


def read_refiner(directory: str | os.PathLike[str]) -> tuple[Any, SAM2Config, Weights]:
    """The configuration of a refiner checkpoint, that of a model it is for, and its weights.

    Raises:
      CheckpointError: if it is none, or is damaged.
    """
    document = _read_document(Path(directory), "refiner")
    try:
        entry = document["refiner"]
        config = read_refiner_config(entry["kind"], entry["config"])
        made_for = SAM2Config.from_dict(entry["model"]) if "model" in entry else _model_of_sizes(**entry["base"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{Path(directory) / CONFIG_FILE} does not describe a refiner: {error}") from error
    return config, made_for, _restore(Path(directory))


def is_refiner(directory: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint directory holds a refiner alone."""
    path = Path(directory) / CONFIG_FILE
    return path.is_file() and "refiner" in _read_document(Path(directory), "model or refiner")


def _sizes(config: SAM2Config) -> dict[str, Any]:
    """What a refiner must know of the models it is for; models of one size but other weights or inputs share it."""
    return {"hidden_dim": config.hidden_dim, "stage_dims": config.trunk.stage_dims}


def _model_of_sizes(hidden_dim: int, stage_dims: list[int]) -> SAM2Config:
    """A model that a refiner of these `_sizes` is for: files of earlier versions tell no more of theirs."""
    return SAM2Config(hidden_dim=hidden_dim, trunk=HieraConfig(embed_dim=stage_dims[0]))


def _refiner_of(model: SAM2) -> tuple[Any, Weights]:
    assert model.refiner is not None
    return model.refiner.config, {path: variable[...] for path, variable in _flat_variables(model.refiner).items()}


def _write_refiner(directory: Path, base: SAM2Config, config: Any, weights: Mapping[str, Any]) -> None:
    entry = {
        "kind": kind_of(config),
        "config": dataclasses.asdict(config),
        "base": _sizes(base),
        "model": base.to_dict(),
    }
    write_document(directory, {"refiner": entry}, weights)


def weights_of(model: SAM2) -> Weights:
    """The model's parameters and buffers by dotted path, those of its refiner excepted."""
    return {path: variable[...] for path, variable in _flat_variables(model.with_refiner(None)).items()}


def weights_checksum(model: SAM2) -> str:
    """A checksum of all weights, the refiner's too."""
    checksum = 0
    for leaf in jax.tree.leaves(nnx.state(model)):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).data.cast("B"), checksum)
    return f"{checksum:08x}"


def weight_shapes(config: SAM2Config) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer of a model of this configuration."""
    return {path: tuple(variable.shape) for path, variable in describe_weights(config).items()}


def describe_weights(config: SAM2Config) -> dict[str, nnx.Variable]:
    """Every parameter and buffer of a model of this configuration: shape, type and metadata, without the numbers."""
    return _flat_variables(abstract_model(config, jnp.float32))


def describe_refiner(config: Any, base: SAM2Config) -> dict[str, nnx.Variable]:
    """The same of a refiner of this configuration for models of the configuration `base`."""
    return _flat_variables(_abstract_refiner(config, base, jnp.dtype(jnp.float32)))


def model_from_weights(config: SAM2Config, weights: Mapping[str, Any], *, dtype: DTypeLike = jnp.float32) -> SAM2:
    """A model made of given weights; `weights` must name exactly its parameters, in its shapes.

    Raises:
      CheckpointError: listing missing, surplus and wrongly shaped weights.
    """
    dtype = _compute_dtype(dtype)
    model = abstract_model(config, dtype)
    _set_variables(model, weights, dtype)
    return model


def _set_variables(module: nnx.Module, weights: Mapping[str, Any], dtype: DTypeLike) -> None:
    variables = _flat_variables(module)
    check_shapes({p: tuple(v.shape) for p, v in variables.items()}, {p: np.shape(w) for p, w in weights.items()})

    def on_host(path):
        weight, stored = weights[path], storage_dtype(variables[path], dtype)
        if isinstance(weight, jax.Array) and weight.dtype == stored:
            return weight
        return np.asarray(weight).astype(stored, copy=False)

    # All at once, and not by `jnp.asarray`, which compiles a program for every shape.
    arrays = jax.device_put([on_host(path) for path in variables])
    for variable, array in zip(variables.values(), arrays, strict=True):
        variable.set_value(array)


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a CheckpointError that says the differences, if there are any: of each kind a few, and how many more."""
    kinds = (
        [f"missing {name} {shape}" for name, shape in expected.items() if name not in found],
        [f"unexpected {name} {shape}" for name, shape in found.items() if name not in expected],
        [
            f"{name} must have shape {expected[name]}, got {shape}"
            for name, shape in found.items()
            if name in expected and shape != expected[name]
        ],
    )
    if any(kinds):
        raise CheckpointError(f"the weights do not fit the model: {'; '.join(few(k) for k in kinds if k)}")


def few(problems: Sequence[str], most: int = 3) -> str:
    """The first of them in a line, and how many more there are."""
    return ", ".join(problems[:most]) + (f" and {len(problems) - most} more" if len(problems) > most else "")


def check_finite(name: str, array: np.ndarray) -> None:
    """Raises a CheckpointError that names the weight if one of its numbers is NaN or infinite."""
    finite = np.isfinite(array)
    if not finite.all():
        nan, bad = int(np.isnan(array).sum()), int(finite.size - finite.sum())
        raise CheckpointError(
            f"{name} must hold finite numbers, got {nan} NaN and {bad - nan} infinite of {finite.size}"
        )


def save_weights(
    directory: str | os.PathLike[str],
    config: SAM2Config,
    weights: Mapping[str, Any],
    *,
    refiner: tuple[Any, Mapping[str, Any]] | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Writes a checkpoint directory, with the configuration and weights of a refiner if given; see `save_model`."""
    known = {} if provenance is None else provenance.to_dict()
    with new_directory(directory) as partial:
        write_document(partial, {"model": config.to_dict(), **({"training": known} if known else {})}, weights)
        if refiner is not None:
            (partial / REFINER_FOLDER).mkdir()
            _write_refiner(partial / REFINER_FOLDER, config, *refiner)


def read_alone(directory: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], Weights]:
    """What `write_document` wrote of weights that are no model by themselves.

    Raises:
      CheckpointError: if it is none, or is damaged.
    """
    return _read_document(Path(directory), kind), _restore(Path(directory))


def write_document(directory: Path, document: dict[str, Any], weights: Mapping[str, Any]) -> None:
    """Writes weights, and what is to be known of them, into a directory."""
    from orbax.checkpoint import v1 as ocp

    (directory / CONFIG_FILE).write_text(json.dumps({"format": FORMAT_VERSION, **document}, indent=2) + "\n")
    context = ocp.Context()
    context.array.saving.use_compression = False
    # The process that writes does so by itself, whatever other processes there are.
    here = jax.process_index()
    context.multiprocessing.primary_host = here
    context.multiprocessing.active_processes = {here}
    context.multiprocessing.barrier_sync_key_prefix = f"process{here}"
    # Orbax copies NumPy arrays before it writes them, but not JAX arrays; of those it wants every process's part.
    as_array = jnp.asarray if jax.process_count() == 1 else np.asarray
    with context:
        ocp.save(directory / WEIGHTS_FOLDER, {path: as_array(w) for path, w in weights.items()})


def load_weights(directory: str | os.PathLike[str]) -> tuple[SAM2Config, Weights]:
    """Reads a checkpoint directory.

    Raises:
      CheckpointError: if it is not one, or is damaged.
    """
    directory = Path(directory).absolute()
    document = _read_document(directory, "model")
    for kind, what in (("refiner", "a refiner"), ("adapters", "adapters")):
        if kind in document:
            raise CheckpointError(f"{directory} holds {what} alone, not a model; give it as `{kind}`")
    try:
        config = SAM2Config.from_dict(document["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory / CONFIG_FILE} is not a model configuration: {error}") from error
    return config, _restore(directory)


def read_provenance(directory: str | os.PathLike[str]) -> Provenance:
    """What a checkpoint directory says of where its weights come from.

    Raises:
      CheckpointError: if it is none, or is damaged.
    """
    document = _read_document(Path(directory), "model")
    try:
        return Provenance.from_dict(document.get("training", {}))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{Path(directory) / CONFIG_FILE} does not say what was trained: {error}") from error


def _read_document(directory: Path, what: str) -> dict[str, Any]:
    try:
        document = json.loads((directory / CONFIG_FILE).read_text())
        if document["format"] != FORMAT_VERSION:
            raise ValueError(f"format {document['format']} is not {FORMAT_VERSION}, the one this version reads")
        return document
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory / CONFIG_FILE} is not a {what} configuration: {error}") from error


def _restore(directory: Path) -> Weights:
    """The weights in a checkpoint directory."""
    from orbax.checkpoint import v1 as ocp

    folder = directory.absolute() / WEIGHTS_FOLDER
    try:
        # On the host: JAX arrays that Orbax makes are bound to a device, and what is computed with them compiles again
        # when arrays that are not come in.
        weights = ocp.load(folder, dict.fromkeys(ocp.metadata(folder).metadata, np.ndarray))
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged directory.
        reason = str(error).strip().splitlines()
        raise CheckpointError(f"cannot read the weights in {directory}: {reason[0] if reason else error!r}") from error
    for name, weight in weights.items():
        check_finite(f"{directory}: {name}", weight)
    return weights


def _compute_dtype(dtype: DTypeLike) -> np.dtype:
    if jnp.dtype(dtype) not in [jnp.dtype(d) for d in COMPUTE_DTYPES]:
        raise ValueError(f"dtype must be float32 or bfloat16, got {jnp.dtype(dtype).name}")
    return jnp.dtype(dtype)


def abstract_model(config: SAM2Config, dtype: DTypeLike, refiner: Any = None) -> SAM2:
    """A model whose weights are shapes alone, with a refiner of this configuration if one is given.

    Raises:
      CheckpointError: if none can be built.
    """
    # Without a copy all models of a configuration would be made of the same variables.
    model = _of_shapes(lambda: nnx.merge(*_traced_model(config, jnp.dtype(dtype)), copy=True))
    return model if refiner is None else model.with_refiner(_abstract_refiner(refiner, config, dtype))


@functools.lru_cache(maxsize=16)
def _traced_model(config: SAM2Config, dtype: np.dtype) -> tuple[Any, Any]:
    """Tracing takes half a second, and who reads a checkpoint of another format asks for one model several times."""
    return nnx.split(nnx.eval_shape(lambda: SAM2(config, dtype=dtype, rngs=NoKeys())))


def _abstract_refiner(config: Any, base: SAM2Config, dtype: DTypeLike) -> Refiner:
    return _of_shapes(lambda: nnx.eval_shape(lambda: build_refiner(config, base, dtype=dtype, rngs=NoKeys())))


def _of_shapes(make: Callable[[], M]) -> M:
    """A module whose weights are shapes alone; what cannot be built, such as one of no channels, is said to be so."""
    try:
        return make()
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"no model can be built of this configuration: {error}") from error


def _flat_variables(model: nnx.Module) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(model))}


def _official_reader():
    """The reader of official checkpoints; it lives in another package, which the library does not import."""
    readers = importlib.metadata.entry_points(group="sam2refiner_jax.checkpoint_readers", name="official")
    for reader in readers:
        return reader.load()
    raise CheckpointError("the converter of official checkpoints is not installed; reinstall sam2refiner_jax")
