"""The tables of `benchmarks/gpu.py`: what was measured, beside what, and what share of the card's peak it reached."""

import dataclasses
import importlib.metadata
import json
import platform
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

SIDES = ("ours", "official", "vos_optimized")
PACKAGES = ("jax", "jaxlib", "flax", "torch", "triton", "sam2", "nvidia-cudnn-cu13")


@dataclasses.dataclass(frozen=True)
class Row:
    """What was timed in turns on several sides.

    Attributes:
      what: what was timed.
      dtype: the type computed in.
      seconds: of each side, one figure a round; a side that is not there has none.
      items: how many images, clicks or frames each run is of.
      gflop: of one run, if it is known.
      is_peak: whether it is a product of matrices, whose speed is the most that the card can do.
      failures: of each side that could not be run, why.
    """

    what: str
    dtype: str
    seconds: dict[str, list[float]]
    items: int = 1
    gflop: float | None = None
    is_peak: bool = False
    failures: dict[str, str] = dataclasses.field(default_factory=dict)

    def median(self, side: str) -> float | None:
        """Seconds of a side."""
        return statistics.median(self.seconds[side]) if self.seconds.get(side) else None

    def ratio(self, side: str) -> float | None:
        """The median, over the rounds, of our time as a part of that side's."""
        ours, theirs = self.seconds.get("ours"), self.seconds.get(side)
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True)) if ours and theirs else None

    def speed(self, side: str) -> float | None:
        """TFLOP a second."""
        seconds = self.median(side)
        return self.gflop / 1e3 / seconds if self.gflop and seconds else None


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far two results of one photo or clip are apart; what was not compared is None.

    Attributes:
      pair: what was compared.
      encoder: relative L2 distance of the worst level of the encoder.
      logits: the largest distance of mask logits, as a part of their range.
      iou: the largest distance of predicted IoU.
      pixels: the smallest share of a mask's pixels that are equal.
      covered: the share of all pixels that the masks take.
    """

    pair: str
    encoder: float | None
    logits: float | None
    iou: float | None
    pixels: float
    covered: float


@dataclasses.dataclass
class Report:
    """Everything that a run found.

    Attributes:
      settings: what was asked for.
      machine: what it ran on, and with which versions.
      rows: what was timed.
      parity: the comparisons of results.
      remarks: what stands below the tables.
    """

    settings: dict[str, object]
    machine: dict[str, str]
    rows: list[Row] = dataclasses.field(default_factory=list)
    parity: list[Parity] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)

    def add(self, found: Row | Parity) -> None:
        if isinstance(found, Parity):
            self.parity.append(found)
        else:
            self.rows.append(found)

    @property
    def failed(self) -> bool:
        """Whether a side could not be run somewhere."""
        return any(row.failures for row in self.rows)

    def peak(self, dtype: str) -> float | None:
        """TFLOP a second of the fastest matrix product of the type."""
        speeds = [row.speed(side) for row in self.rows if row.is_peak and row.dtype == dtype for side in SIDES]
        return max((speed for speed in speeds if speed), default=None)

    def share(self, row: Row, side: str) -> float | None:
        """The part of the peak that a side of a row reached."""
        speed, peak = row.speed(side), self.peak(row.dtype)
        return speed / peak if speed and peak else None

    def markdown(self) -> str:
        """The tables, what they are of, and why a side is missing."""
        columns = ("what", "type", *SIDES, "ours / official", "ours / vos_optimized", "ours a second", "share of peak")
        blocks = [f"- {name}: {value}" for name, value in (self.machine | self.settings).items()]
        blocks = ["\n".join(blocks), table(columns, [self._cells(row) for row in self.rows])]
        if self.parity:
            columns = ("results", "encoder", "logits", "predicted IoU", "equal pixels", "masks cover")
            blocks.append(table(columns, [parity_cells(each) for each in self.parity]))
        blocks += self.remarks
        for row in self.rows:
            blocks += [f"Failed: {row.what}, {row.dtype}, {side}: {why}" for side, why in row.failures.items()]
        return "\n\n".join(blocks) + "\n"

    def _cells(self, row: Row) -> list[str]:
        shares = [shown(self.share(row, side), "{:.1%}") for side in SIDES if row.seconds.get(side)]
        known = row.gflop is not None and self.peak(row.dtype) is not None
        ours = row.median("ours")
        return [
            row.what,
            row.dtype,
            *("failed" if side in row.failures else shown(row.median(side), "{:.4g} s") for side in SIDES),
            shown(row.ratio("official"), "{:.2f}"),
            shown(row.ratio("vos_optimized"), "{:.2f}"),
            shown(ours and row.items / ours, "{:.4g}"),
            ", ".join(shares) if known else "",
        ]

    def save(self, folder: Path, name: str) -> None:
        """Writes NAME.md and NAME.json; the latter has the seconds of every round."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(self.markdown())
        figures = {
            "machine": self.machine,
            "settings": self.settings,
            "peak_tflop_a_second": {row.dtype: self.peak(row.dtype) for row in self.rows},
            "rows": [dataclasses.asdict(row) | self._derived(row) for row in self.rows],
            "parity": [dataclasses.asdict(each) for each in self.parity],
        }
        (folder / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")

    def _derived(self, row: Row) -> dict[str, object]:
        return {
            "median": {side: row.median(side) for side in SIDES},
            "ours_over": {side: row.ratio(side) for side in SIDES[1:]},
            "share_of_peak": {side: self.share(row, side) for side in SIDES},
        }


def parity_cells(each: Parity) -> list[str]:
    distances = [shown(value, "{:.1e}") for value in (each.encoder, each.logits, each.iou)]
    return [each.pair, *distances, f"{each.pixels:.4%}", f"{each.covered:.1%}"]


def shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe_machine(device: str) -> dict[str, str]:
    """The card or processor, its driver, and the versions of all that computes on it."""
    import jax
    import torch

    found = {"device": jax.devices()[0].device_kind, "python": platform.python_version()}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"device": card.name, "memory": f"{card.total_memory / 2**30:.0f} GiB"}
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader"]
            lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
            found["driver, power limit"] = lines[0]
        found |= {
            "CUDA of torch": str(torch.version.cuda),
            "cuDNN of torch": str(torch.backends.cudnn.version()),
            "CUDA of JAX": jax.devices()[0].client.platform_version.replace("\n", ", "),
        }
    installed = {each.metadata["Name"].lower() for each in importlib.metadata.distributions()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
