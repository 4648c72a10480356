"""TPU chips by their published figures, and meshes of chips that need not be there."""

import dataclasses
import math
import os
from collections.abc import Mapping

from jax.experimental import mesh_utils, topologies
from jax.sharding import Mesh

__all__ = ["CHIPS", "Chip", "chip_mesh", "chip_of", "parse_shape", "topology_mesh"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do.

    Attributes:
      name: as in a topology's name.
      peak_flops: bfloat16 FLOP/s of the matrix units.
      hbm_bytes: memory.
      hbm_bandwidth: bytes/s between memory and chip.
      ici_bandwidth: bytes/s that a chip sends along one axis of the torus, over its two links in both directions.
      torus_axes: axes of a slice.
      clock: cycles a second, for the compiler's estimates: with these it gives a product of two matrices of 4,096 rows
        and columns 0.96 (v5p), 0.97 (v5e) and 0.87 (v6e) of the published peak.
      source: where the figures were published.
    """

    name: str
    peak_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    torus_axes: int
    clock: float
    source: str


# The sources give a chip's interconnect over all its links with both directions added: half of that leaves the chip,
# and each torus axis has its share of it.
_DOCS = "https://cloud.google.com/tpu/docs/"
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 16 * 2**30, 819e9, 400e9 / 2 / 2, 2, 1.5e9, _DOCS + "v5e"),
        Chip("v5p", 459e12, 95 * 2**30, 2765e9, 1200e9 / 2 / 3, 3, 1.75e9, _DOCS + "v5p"),
        Chip("v6e", 918e12, 32 * 2**30, 1638e9, 800e9 / 2 / 2, 2, 1.75e9, _DOCS + "v6e"),
    )
}


def chip_of(spec: str) -> Chip:
    """The chip of a topology such as "v5e:4x4".

    Raises:
      ValueError: if the table has no such chip.
    """
    name = spec.partition(":")[0]
    if name not in CHIPS:
        raise ValueError(f"topology must start with one of {', '.join(CHIPS)}, got {spec!r}")
    return CHIPS[name]


def parse_shape(spec: str) -> tuple[int, ...]:
    """The sides of a topology: (4, 4) of "v5e:4x4".

    Raises:
      ValueError: if there are not as many as the chip's torus has axes.
    """
    chip = chip_of(spec)
    sides = spec.partition(":")[2].split("x")
    if len(sides) != chip.torus_axes or not all(side.isdecimal() and int(side) > 0 for side in sides):
        example = "x".join(["4"] * chip.torus_axes)
        raise ValueError(f"topology must be like {chip.name}:{example}, got {spec!r}")
    return tuple(int(side) for side in sides)


def topology_mesh(spec: str, axes: Mapping[str, int]) -> Mesh:
    """A mesh of chips to compile for, whether there are any or not; needs libtpu.

    Args:
      spec: chip and shape of the slice, such as "v5e:4x4", "v5p:4x4x4" or "v6e:4x4"; a device is a whole chip.
      axes: names and sizes of the mesh's axes, such as {"data": -1, "model": 2}; one size may be -1, for what is left.

    Raises:
      ValueError: if `spec` is no topology that the compiler knows, or the axes do not make up its chips.
      ModuleNotFoundError: if libtpu is not installed.
    """
    shape = parse_shape(spec)
    sizes = _fill_in(axes, math.prod(shape), spec)
    # Only the compiler is wanted. Without these, libtpu asks the network for the machine's metadata, and refuses to
    # load while another process has it loaded.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # The default of 2x2 chips a host leaves out slices of one chip or one row.
    host = [2 if side % 2 == 0 else 1 for side in shape[:2]] + [1]
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=spec, chips_per_host_bounds=host)
    except RuntimeError as error:
        if "not installed" in str(error):
            raise ModuleNotFoundError("compiling for TPUs needs libtpu: pip install sam2refiner_jax[plan]") from error
        raise ValueError(f"topology must be a slice that the TPU compiler knows, got {spec!r}: {error}") from error
    devices = mesh_utils.create_device_mesh(tuple(sizes.values()), topology.devices, allow_split_physical_axes=True)
    return Mesh(devices, tuple(sizes))


def chip_mesh(chip: Chip) -> Mesh:
    """`topology_mesh` of a single chip, on the axis "chip"."""
    return topology_mesh(f"{chip.name}:{'x'.join(['1'] * chip.torus_axes)}", {"chip": 1})


def _fill_in(axes: Mapping[str, int], chips: int, spec: str) -> dict[str, int]:
    sizes = dict(axes)
    known = math.prod(size for size in sizes.values() if size != -1)
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) == 1 and known > 0 and chips % known == 0:
        sizes[open_axes[0]] = chips // known
    if math.prod(sizes.values()) != chips or any(size < 1 for size in sizes.values()):
        raise ValueError(f"axes must make up the {chips} chips of {spec}, got {dict(axes)}")
    return sizes
