"""What to evaluate on: sets of images with masks, by specification."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..data.sources import Source, open_source

__all__ = ["HQ_SAM_SETS", "Benchmark", "open_benchmarks"]

# HQ-SAM's validation sets as the paper calls them, in its order, and as the sources call them.
HQ_SAM_SETS = {"DIS-VD": "dis", "COIFT": "coift", "HRSOD": "hrsod", "ThinObject5K-TE": "thin"}
HQ_SAM_KIND = "hqsam-val"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A set of images with masks.

    Attributes:
      name: in tables.
      spec: of its source.
      source: gives the samples.
      by_clip: take the mean of each clip first, then of the clips, where names are CLIP/FRAME.
    """

    name: str
    spec: str
    source: Source
    by_clip: bool = False

    def group_of(self, index: int) -> str:
        """Whose mean a sample counts towards."""
        return self.source.name_of(index).rpartition("/")[0] if self.by_clip else self.name


def open_benchmarks(specs: Sequence[str]) -> list[Benchmark]:
    """The sets that `specs` describe: sources as in training, or "hqsam-val:DIR" for HQ-SAM's four validation sets.

    Raises:
      ValueError: if there is none, one is given twice, or a source cannot be opened.
    """
    benchmarks = [benchmark for spec in specs for benchmark in _open(spec)]
    found = [benchmark.spec for benchmark in benchmarks]
    twice = sorted({spec for spec in found if found.count(spec) > 1})
    if twice:
        raise ValueError(f"every set must be given once, got {', '.join(twice)} more than once")
    names = [benchmark.name for benchmark in benchmarks]
    benchmarks = [b if names.count(b.name) == 1 else dataclasses.replace(b, name=b.spec) for b in benchmarks]
    if not benchmarks:
        raise ValueError("give at least one set to evaluate on")
    return benchmarks


def _open(spec: str) -> list[Benchmark]:
    kind, _, rest = spec.partition(":")
    location, _, options = rest.partition("?")
    if kind != HQ_SAM_KIND:
        short = ":".join(part for part in (kind, Path(location).name) if part) + (f"?{options}" if options else "")
        return [Benchmark(short, spec, open_source(spec), by_clip=kind == "davis")]
    specs = {name: f"{HQ_SAM_KIND}:{location}?set={short}" for name, short in HQ_SAM_SETS.items()}
    chosen = {name: each for name, each in specs.items() if not options or each == spec}
    if not chosen:
        open_source(spec)  # says what is wrong with it
    return [Benchmark(name, each, open_source(each)) for name, each in chosen.items()]
