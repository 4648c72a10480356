"""What results were made with, compared with what a run that is to go on with them is made with."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differing", "setting_differences"]


def differing(earlier: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two sets of settings differ, as plain values: the name, inner ones as NAME.INNER, and both values.

    A setting that one of them lacks is None there.
    """
    for name in dict.fromkeys([*earlier, *now]):
        before, after = earlier.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differing(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}", before, after


def setting_differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The same as lines: "NAME was A and is B"."""
    return [f"{name} was {before!r} and is {after!r}" for name, before, after in differing(earlier, now)]
