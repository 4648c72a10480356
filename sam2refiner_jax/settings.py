"""What results were made with, compared with what a run that is to go on with them is made with."""

from collections.abc import Mapping
from typing import Any

__all__ = ["setting_differences"]


def setting_differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two sets of settings differ, as plain values: "NAME was A and is B", a line each; inner ones as NAME.INNER.

    A setting that one of them lacks is None there.
    """
    lines: list[str] = []
    for name in dict.fromkeys([*earlier, *now]):
        before, after = earlier.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += [f"{name}.{line}" for line in setting_differences(before, after)]
        elif before != after:
            lines.append(f"{name} was {before!r} and is {after!r}")
    return lines
