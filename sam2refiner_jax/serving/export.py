"""Writing a model's programs as StableHLO by `jax.export`, with what is needed to run them."""

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..atomic import new_directory
from ..hardware.chips import chip_mesh, chip_of
from ..sam2 import SAM2
from . import runner
from .programs import Program, programs_of

__all__ = ["MANIFEST", "PLATFORMS", "WEIGHTS", "export_programs"]

PLATFORMS = ("cpu", "cuda", "tpu")
MANIFEST, WEIGHTS, RUNNER = "manifest.json", "weights.npz", "runner.py"
FORMAT = 1
# A hint of how the encoder's maps lie in a TPU's memory (`nn.hiera`), which JAX does not promise to be known later on.
HINT = export.DisabledSafetyCheck.custom_call("LayoutConstraint")


def export_programs(
    model: SAM2,
    folder: str | os.PathLike[str],
    *,
    platforms: Sequence[str] = PLATFORMS,
    clicks: int = 11,
    prompted: int = 1,
    compile_for: str | None = None,
    images: int = 1,
    objects: int = 1,
) -> dict[str, Any]:
    """Writes a model as programs that run without this package.

    The folder holds NAME.jax for each program, the weights once, a manifest of names, shapes and types, and runner.py,
    which needs JAX and NumPy alone. Programs take any number of images and of objects.

    Args:
      model: from `load_model`; a refiner of it is exported too.
      folder: to write; it must not exist yet.
      platforms: that the programs can run on.
      clicks: slots of clicks and box corners of an object.
      prompted: frames with prompts that a tracked object remembers.
      compile_for: write the programs compiled too, NAME.compiled, so that nothing is compiled where they run: a TPU
        chip such as "v5e", which need not be there, or "here" for a device like this process's first.
      images: number of images that they are compiled for.
      objects: number of objects likewise.

    Returns:
      The manifest.

    Raises:
      ValueError: on platforms or a chip that are none, too few slots, images or objects, or without flatbuffers.
      FileExistsError: if the folder exists already.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise ValueError(f"platforms must be some of {', '.join(PLATFORMS)}, got {', '.join(platforms) or 'none'}")
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError("programs need flatbuffers: pip install 'sam2refiner_jax[serving]'")
    if clicks < 4 or prompted < 1:
        raise ValueError(f"clicks must be at least 4 and prompted at least 1, got {clicks} and {prompted}")
    if images < 1 or objects < 1:
        raise ValueError(f"images and objects must be at least 1, got {images} and {objects}")
    mesh = None if compile_for is None else _mesh_of(compile_for)
    numbers = {"images": images, "objects": objects}
    leaves = jax.tree.leaves(nnx.state(model))
    weights = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    with new_directory(folder) as partial:
        described = {}
        for name, program in programs_of(model, clicks=clicks, prompted=prompted).items():
            lower = export.export(jax.jit(program.function), platforms=list(platforms), disabled_checks=[HINT])
            exported = lower(weights, _shapes(program))
            (partial / f"{name}.jax").write_bytes(exported.serialize())
            described[name] = _described(program, exported)
            if mesh is not None:
                (partial / f"{name}.compiled").write_bytes(_compiled(program, weights, numbers, mesh))
        stored = {f"{i:04d}": np.asarray(x) for i, x in enumerate(leaves)}
        manifest = {
            "format": FORMAT,
            "model": model.config.name,
            "image_size": model.config.image_size,
            "dtype": model.dtype.name,
            "refiner": None if model.refiner is None else type(model.refiner).__name__,
            "platforms": list(platforms),
            "jax": jax.__version__,
            "clicks": clicks,
            "prompted": prompted,
            "programs": described,
            "weights": {key: x.dtype.name for key, x in stored.items()},
        }
        if mesh is not None:
            manifest["compiled"] = {**runner.kind_of(mesh.devices.flat[0]), **numbers}
        plain: dict[str, Any] = {key: _as_plain(x) for key, x in stored.items()}
        np.savez(partial / WEIGHTS, **plain)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        shutil.copyfile(runner.__file__, partial / RUNNER)
    return manifest


def _shapes(program: Program) -> dict[str, jax.ShapeDtypeStruct]:
    """The inputs' types; sides that are words are symbols."""
    words = sorted({side for shape, _ in program.inputs.values() for side in shape if isinstance(side, str)})
    symbols: dict[Any, Any] = dict(zip(words, export.symbolic_shape(",".join(words)) if words else (), strict=True))
    return {
        name: jax.ShapeDtypeStruct(tuple(symbols.get(side, side) for side in shape), dtype)
        for name, (shape, dtype) in program.inputs.items()
    }


def _mesh_of(device: str) -> Mesh:
    """One chip of a kind, or this process's first device."""
    if device == "here":
        return Mesh(np.array(jax.devices()[:1]), ("chip",))
    return chip_mesh(chip_of(device))


def _compiled(program: Program, weights: list[Any], numbers: dict[str, int], mesh: Mesh) -> bytes:
    """A program compiled for so many images and objects, on the mesh's only device."""
    whole = NamedSharding(mesh, PartitionSpec())

    def placed(shape: Sequence[int | str], dtype: Any) -> jax.ShapeDtypeStruct:
        sides = tuple(numbers[side] if isinstance(side, str) else side for side in shape)
        return jax.ShapeDtypeStruct(sides, dtype, sharding=whole)

    given = {name: placed(shape, dtype) for name, (shape, dtype) in program.inputs.items()}
    step = jax.jit(program.function)
    with jax.set_mesh(mesh), _compiling_anew():
        compiled = step.lower([placed(x.shape, x.dtype) for x in weights], given).compile()
    return serialize_executable.serialize(compiled)[0]


@contextlib.contextmanager
def _compiling_anew() -> Iterator[None]:
    """Without JAX's cache of compiled programs: what a CPU's program was read from cannot be written again."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX asks once whether there is one
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _described(program: Program, exported: export.Exported) -> dict[str, Any]:
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        "purpose": program.purpose,
        "inputs": {name: [list(shape), dtype.name] for name, (shape, dtype) in program.inputs.items()},
        "outputs": {
            name: [[side if isinstance(side, int) else str(side) for side in x.shape], x.dtype.name]
            for name, x in outputs.items()
        },
    }


def _as_plain(array: np.ndarray) -> np.ndarray:
    """NumPy's files know no bfloat16."""
    return array if array.dtype.isbuiltin else array.view(np.uint16)
