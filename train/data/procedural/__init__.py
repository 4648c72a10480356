"""A procedural source: scenes of textured, shaded objects with fine structure and exact masks, without end.

Read upwards: `shapes` gives outlines, `sketch` collects them into a drawing and renders it, the families (`creatures`,
`machines`, `plants`, `structures`) draw objects, `fields`, `colours` and `textures` give surfaces, `painting` makes
layers, `backgrounds`, `camera` and `scene` compose them, `source` numbers the scenes; `moving` makes them move.
"""

from ....data.sources import register_source
from .moving import MovingScenes
from .source import ProceduralSource

__all__ = ["MovingScenes", "ProceduralSource", "open_moving", "open_procedural"]


@register_source("procedural")
def open_procedural(
    location: str, size: int = 256, seed: int = 0, photos: tuple[str, ...] = (), length: int = 2**31 - 1
) -> ProceduralSource:
    """The source "procedural:?size=256&seed=0&photos=DIR1,DIR2"; it has no location.

    Raises:
      ValueError: if a location is given, or an option is out of its range.
    """
    _check_no_location(location)
    return ProceduralSource(size, seed, photos, length)


@register_source("procedural-clips")
def open_moving(
    location: str, size: int = 256, seed: int = 0, photos: tuple[str, ...] = (), length: int = 2**31 - 1
) -> MovingScenes:
    """The source "procedural-clips:?size=256&seed=0&photos=DIR1,DIR2"; it has no location.

    Raises:
      ValueError: if a location is given, or an option is out of its range.
    """
    _check_no_location(location)
    return MovingScenes(size, seed, photos, length)


def _check_no_location(location: str) -> None:
    if location:
        raise ValueError(
            f"a procedural source has no location, got {location!r}; folders of photos are its option photos"
        )
