"""The report of the image benchmark: JSON, CSV, Markdown tables, plots and a gallery."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import new_file
from .gallery import draw_gallery
from .image import Clock, ImageSettings, LeftOut
from .image_sets import Benchmark
from .plots import plot_gains, plot_points
from .run_folder import Record, RunFolder
from .segmenters import Segmenter
from .tables import image_tables, summarise

__all__ = ["IMAGE_REPORT", "timing_line", "write_csv", "write_image_report", "write_json", "write_text"]

IMAGE_REPORT = ("results.json", "items.csv", "table.md", "points.png", "gains.png", "gallery.png")
COLUMNS = ("benchmark", "index", "name", "group", "height", "width")


def write_image_report(
    segmenter: Segmenter,
    benchmarks: Sequence[Benchmark],
    settings: ImageSettings,
    run: RunFolder,
    left_out: Sequence[LeftOut],
    clock: Clock,
) -> str:
    """Writes results.json, items.csv, table.md, points.png, gains.png and gallery.png to the run's folder.

    Returns:
      The tables in Markdown.

    Raises:
      ValueError: if not one item was evaluated.
    """
    if not run.records:
        reason = f"; the first: {left_out[0].name}: {left_out[0].reason}" if left_out else ""
        raise ValueError(f"not one item could be evaluated, {len(left_out)} were left out{reason}")
    order = {benchmark.name: place for place, benchmark in enumerate(benchmarks)}
    records = sorted(run.records, key=lambda record: (order[record["benchmark"]], record["index"]))
    summary = summarise(records)
    document = {
        "segmenter": segmenter.settings(),
        "summary": summary,
        "seconds": dict(clock.seconds),
        "left_out": [{"benchmark": item.benchmark, "name": item.name, "reason": item.reason} for item in left_out],
        "items": records,
    }
    write_json(run.folder / "results.json", document)
    write_csv(run.folder / "items.csv", [row for record in records for row in _rows(record)])
    text = image_tables(summary, segmenter.name) + "\n\n" + _notes(records, benchmarks, left_out, clock)
    write_text(run.folder / "table.md", f"# {segmenter.name}\n\n{text}\n")
    plot_points(summary, segmenter.name, run.folder / "points.png")
    plot_gains(records, run.folder / "gains.png")
    draw_gallery(segmenter, benchmarks, records, settings.seed, run.folder / "gallery.png")
    return text


def timing_line(clock: Clock, metrics: str) -> str:
    """How long the parts of this sitting took, and the metrics' share."""
    seconds = clock.seconds
    return (
        f"Time of this sitting: model {seconds['model']:.1f} s, {metrics} {seconds['metrics']:.2f} s, "
        f"{clock.metrics_share():.2%} of the two."
    )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON file; one of that name is replaced."""
    write_text(path, json.dumps(document, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file; one of that name is replaced."""
    with new_file(path, overwrite=True) as partial:
        partial.write_text(text)


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows with a head line of all their names; a file of that name is replaced."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with new_file(path, overwrite=True) as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _rows(record: Record) -> list[dict[str, Any]]:
    """A row for each prompt and mask; of clicks, the IoU after each, separated by blanks."""
    common = {column: record[column] for column in COLUMNS}
    rows = []
    for result in record["results"]:
        row = {**common, **result}
        if "ious" in row:
            row["ious"] = " ".join(f"{value:.6f}" for value in row["ious"])
        rows.append(row)
    return rows


def _notes(
    records: Sequence[Record], benchmarks: Sequence[Benchmark], left_out: Sequence[LeftOut], clock: Clock
) -> str:
    counts = [f"{b.name} {sum(record['benchmark'] == b.name for record in records)}" for b in benchmarks]
    lines = [
        f"Items: {', '.join(counts)}. mIoU and mBIoU in percent, at the images' own sizes, Boundary IoU with 0.02 of "
        "the diagonal. Means are over the items of a set (where it consists of clips, of each clip, then over clips).",
        f"Left out: {len(left_out)} items that could not be read or whose truth is empty: of an empty truth no prompt "
        "can be drawn. An empty mask of an object that is there counts as 0.",
        *(f"- {item.benchmark}: {item.name}: {item.reason}" for item in left_out),
        timing_line(clock, "metrics"),
    ]
    return "\n".join([*lines[:1], "", *lines[1:-1], "", lines[-1]])
