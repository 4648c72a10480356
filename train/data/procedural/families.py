"""The kinds of objects and how often each is drawn."""

import dataclasses
from collections.abc import Callable

import numpy as np

from . import creatures, machines, plants, structures
from .sketch import Sketch

__all__ = ["FAMILIES", "Family", "draw_family", "pick_family"]


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of object.

    Attributes:
      draw: makes one.
      weight: relative frequency.
      upright: whether gravity orients it, so that it is tilted a little at most, or it may be turned any way.
    """

    draw: Callable[[np.random.Generator], Sketch]
    weight: int
    upright: bool = True


FAMILIES = (
    Family(creatures.person, 12),
    Family(creatures.quadruped, 13),
    Family(creatures.bird, 7),
    Family(creatures.fish, 2),
    Family(creatures.insect, 3, upright=False),
    Family(machines.car, 6),
    Family(machines.lorry, 3),
    Family(machines.cycle, 8),
    Family(machines.boat, 4),
    Family(machines.aeroplane, 2),
    Family(machines.wheel_alone, 3, upright=False),
    Family(plants.branch, 4, upright=False),
    Family(plants.tree, 3),
    Family(plants.flower, 4),
    Family(plants.tuft, 3),
    Family(plants.fern, 3, upright=False),
    Family(structures.lump, 13, upright=False),
    Family(structures.polygons, 4, upright=False),
    Family(structures.lattice, 4),
    Family(structures.truss, 2),
    Family(structures.wires, 3, upright=False),
    Family(structures.web, 2, upright=False),
    Family(structures.lettering, 4),
    Family(structures.furniture, 5),
    Family(structures.vessel, 4),
    Family(structures.carton, 5),
    Family(structures.umbrella, 3),
    Family(structures.ring, 3, upright=False),
)

CUMULATIVE = np.cumsum([family.weight for family in FAMILIES]) / sum(family.weight for family in FAMILIES)


def draw_family(rng: np.random.Generator, family: Family) -> Sketch:
    """An object of the family, bent a little."""
    sketch = family.draw(rng)
    if rng.random() < 0.6:
        sketch.bend(rng, rng.uniform(0.005, 0.04))
    return sketch


def pick_family(rng: np.random.Generator) -> Family:
    """A family by its weight."""
    return FAMILIES[int(np.searchsorted(CUMULATIVE, rng.random(), side="right"))]
