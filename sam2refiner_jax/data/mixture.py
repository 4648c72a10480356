"""Several sources of images with their weights."""

from .sources import Source, open_source

__all__ = ["open_mixture"]


def open_mixture(specs: tuple[str, ...]) -> list[tuple[Source, float]]:
    """Sources with their weights; "@2" at the end of a source is its weight, else its number of images is."""
    opened: list[tuple[Source, float | None]] = []
    for spec in specs:
        place, mark, weight = spec.rpartition("@")
        if mark and _is_weight(weight):
            opened.append((open_source(place), float(weight)))
        else:
            opened.append((open_source(spec), None))
    weighted = any(weight is not None for _, weight in opened)
    return [(s, (1.0 if weighted else float(len(s))) if w is None else w) for s, w in opened]


def _is_weight(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
