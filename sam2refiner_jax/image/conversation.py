"""What a refiner carries from one call about the same objects to the next, kept with what was asked."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

__all__ = ["Asked", "Conversation", "Turn"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """The clicks and boxes about one object.

    Attributes:
      photo: which photo of a batch it is in.
      points: x and y in the model's coordinates, without the padding point.
      labels: theirs.
    """

    photo: int
    points: Float[np.ndarray, "n 2"]
    labels: Int[np.ndarray, " n"]

    def goes_on_in(self, later: "Asked") -> bool:
        """Whether the later ones are these and more."""
        count = len(self.labels)
        return (
            self.photo == later.photo
            and count < len(later.labels)
            and np.array_equal(self.labels, later.labels[:count])
            and np.array_equal(self.points, later.points[:count])
        )


@dataclasses.dataclass(frozen=True)
class Turn:
    """What was asked about each object, and what the refiner carried away from it; rows that pad come last."""

    asked: list[Asked]
    carry: Any


class Conversation:
    """The last call, and the one that it went on from.

    Who asks the same again, or takes the last click back and gives another, gets what those clicks give after the
    earlier ones, not after all that was tried meanwhile.

    Attributes:
      turns: these two, or none.
    """

    def __init__(self, turns: Sequence[Turn] = ()) -> None:
        self.turns = list(turns)

    def before(self, asked: Sequence[Asked], initial: Callable[[], Any]) -> Turn:
        """What each object's clicks go on from: the newest turn of which they are more, or nothing.

        Args:
          asked: one an object, in an order that stays.
          initial: gives the carry of first clicks, for all rows.
        """
        nothing = [Asked(a.photo, a.points[:0], a.labels[:0]) for a in asked]
        turn = Turn(nothing, jax.device_get(initial()))
        for known in self.turns:
            if len(known.asked) != len(asked):
                continue
            goes_on = [old.goes_on_in(new) for old, new in zip(known.asked, asked, strict=True)]
            if any(goes_on):
                turn = _choose(goes_on, known, turn)
        return turn

    def go_on(self, before: Turn, asked: Sequence[Asked], carry: Any) -> None:
        """Keeps a call's clicks and what the refiner carried away, in host memory, with the turn it went on from."""
        self.turns = [before, Turn(list(asked), jax.device_get(carry))]


def _choose(here: Sequence[bool], yes: Turn, no: Turn) -> Turn:
    """Row by row one turn or the other."""

    def choose(a, b):
        chosen = np.array(b)
        rows = np.flatnonzero(here)
        chosen[rows] = a[rows]
        return chosen

    asked = [a if is_here else b for is_here, a, b in zip(here, yes.asked, no.asked, strict=True)]
    return Turn(asked, jax.tree.map(choose, yes.carry, no.carry))
