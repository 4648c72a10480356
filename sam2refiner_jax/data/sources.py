"""Sources of images with masks: what a source is, the kinds there are, and opening one from its specification."""

import importlib
import importlib.metadata
import inspect
import types
import typing
from collections.abc import Callable
from typing import Protocol, TypedDict, TypeVar, runtime_checkable
from urllib.parse import parse_qsl

import numpy as np
from jaxtyping import UInt8

__all__ = ["KINDS", "Sample", "Source", "find_source", "open_source", "register_source"]


class Sample(TypedDict):
    """An image and the mask of one object in it, or of several.

    Attributes:
      image: RGB.
      mask: how much of each pixel the object covers, 0 to 255; at least one pixel is covered by half or more. Several
        objects are along a last axis.
    """

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w *n"]


@runtime_checkable
class Source(Protocol):
    """Samples by number, in any order, from any thread; processes get a pickled copy.

    A source that knows of other objects in an image has a method `several(index, count)` too: the sample `index` with
    the masks of up to `count` objects, the sample's own first.

    A source may also have `problems` and `notes`, tuples of sentences that `sam2refiner data check` reports: what is
    wrong with what it found, and what it left aside.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample `index`; raises a ValueError that names the file if it cannot be had."""
        ...

    def name_of(self, index: int) -> str:
        """What messages and reports call the sample."""
        ...


Factory = TypeVar("Factory", bound=Callable[..., Source])

# The modules that register the kinds which come with the library, so that nobody imports what he does not use. What
# stands on the library registers its own, by entry points of the group below.
KINDS = {
    "folder": "folders",
    "hqseg44k": "hqseg44k",
    "hqsam-val": "hqseg44k",
    "regions": "regions",
    "davis": "clip_frames",
    "clips": "clip_sources",
    "tfds": "hqseg44k_tfds",
}
KINDS_OF_PACKAGES = "sam2refiner_jax.sources"
FACTORIES: dict[str, Callable[..., Source]] = {}


def register_source(kind: str) -> Callable[[Factory], Factory]:
    """Makes `open_source("KIND:LOCATION?OPTION=VALUE")` call the decorated class or function.

    It gets the location as a string and the options by name, each converted to its annotation: str, int, float, bool or
    tuple[str, ...] (separated by commas in the specification).

    Raises:
      ValueError: if the kind is taken.
    """
    if kind in FACTORIES:
        raise ValueError(f"kind must be a new name, got {kind!r}, which is {FACTORIES[kind].__qualname__}")

    def register(factory: Factory) -> Factory:
        FACTORIES[kind] = factory
        return factory

    return register


def open_source(spec: str) -> Source:
    """The source that `spec` describes, such as "folder:DIR" or "davis:DIR?clips=bear,camel&every=5".

    Only what is cheap is checked now, such as that every image has a mask; the rest is when a sample is read.

    Raises:
      ValueError: naming the file or folder, if something is missing or wrong, or if there is not one sample.
    """
    source = find_source(spec)
    problems = getattr(source, "problems", ())
    if problems:
        more = f" (and {len(problems) - 1} more; `sam2refiner data check {spec}` lists them)" if problems[1:] else ""
        raise ValueError(problems[0] + more)
    if len(source) == 0:
        raise ValueError(f"a source must hold at least one sample, {spec} holds none")
    return source


def find_source(spec: str) -> Source:
    """As `open_source`, but its `problems` are left to the caller, and it may be empty.

    Raises:
      ValueError: if the specification is wrong or the place it names is not laid out as the kind wants it.
    """
    kind, colon, rest = spec.partition(":")
    others = {entry.name: entry for entry in importlib.metadata.entry_points(group=KINDS_OF_PACKAGES)}
    if kind not in FACTORIES and kind in KINDS:
        importlib.import_module(f".{KINDS[kind]}", __package__)
    elif kind not in FACTORIES and kind in others:
        others[kind].load()
    if not colon or kind not in FACTORIES:
        kinds = ", ".join(sorted({*KINDS, *others, *FACTORIES}))
        raise ValueError(f"a source must be KIND:LOCATION, where KIND is one of {kinds}; got {spec!r}")
    location, _, query = rest.partition("?")
    return FACTORIES[kind](location, **_read_options(spec, FACTORIES[kind], query))


def _read_options(spec: str, factory: Callable[..., Source], query: str) -> dict[str, object]:
    parameters = list(inspect.signature(factory).parameters.values())[1:]
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    options: dict[str, object] = {}
    for name, text in parse_qsl(query, keep_blank_values=True) if query else ():
        if name not in annotations:
            raise ValueError(f"{spec}: options must be among {', '.join(annotations) or '(none)'}, got {name!r}")
        try:
            options[name] = _read_option(text, annotations[name])
        except ValueError as error:
            raise ValueError(f"{spec}: {name} must be {error}, got {text!r}") from None
    if query and not options:
        raise ValueError(f"{spec}: options must be written as NAME=VALUE, joined by &; got {query!r}")
    for parameter in parameters:
        if parameter.default is inspect.Parameter.empty and parameter.name not in options:
            raise ValueError(f"{spec}: the option {parameter.name} must be given")
    return options


def _read_option(text: str, annotation: object) -> object:
    """The value that the text stands for; a ValueError says what it should have been."""
    if isinstance(annotation, types.UnionType):  # an optional value
        annotation = next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    if annotation == tuple[str, ...]:
        return tuple(text.split(","))
    if annotation is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return text.lower() == "true"
    if annotation is int or annotation is float:
        try:
            return annotation(text)  # type: ignore[operator]
        except ValueError:
            raise ValueError("an integer" if annotation is int else "a number") from None
    return text
