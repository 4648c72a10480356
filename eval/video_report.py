"""The report of the video benchmark: J&F overall, and of seen and unseen categories as LVOS v2 has it."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.clips import Layout
from .calibration import calibration_of_videos, calibration_text
from .image import Clock, LeftOut
from .paper import LVOS_V1, LVOS_V2
from .report import timing_line, write_csv, write_json, write_text
from .run_folder import Record
from .tables import markdown_table

__all__ = ["VIDEO_REPORT", "VideoSummary", "summarise_videos", "write_video_comparison", "write_video_report"]

VIDEO_REPORT = ("results.json", "objects.csv", "table.md")


@dataclasses.dataclass(frozen=True)
class VideoSummary:
    """Means over objects, in [0, 1].

    Attributes:
      jf: J&F; with unseen categories, the mean of J and F of both, as LVOS v2 has it.
      j: region similarity.
      f: contour accuracy.
      seen: J and F of the objects of seen categories; None where the list of unseen clips was not given.
      unseen: likewise.
      objects: how many there are.
    """

    jf: float
    j: float
    f: float
    seen: tuple[float, float] | None
    unseen: tuple[float, float] | None
    objects: int


def summarise_videos(records: Sequence[Record], unseen: Collection[str] = ()) -> VideoSummary:
    """Means over the objects of all clips.

    Args:
      records: of the clips.
      unseen: clips of categories that training does not show, if the set has such.

    Raises:
      ValueError: if no object was scored; if `unseen` is given and names none, or all, of the clips.
    """
    records = [record for record in records if record["objects"]]
    if not records:
        raise ValueError("not one object could be scored")
    j, f = _mean(records)
    objects = sum(len(record["objects"]) for record in records)
    if not unseen:
        return VideoSummary((j + f) / 2, j, f, None, None, objects)
    new = [record for record in records if record["clip"] in unseen]
    known = [record for record in records if record["clip"] not in unseen]
    if not new or not known:
        raise ValueError(
            f"the list of unseen clips must name some of the clips, but not all; of {len(records)} it names {len(new)}"
        )
    of_known, of_new = _mean(known), _mean(new)
    return VideoSummary(float(np.mean([of_known, of_new])), j, f, of_known, of_new, objects)


def write_video_report(
    folder: Path,
    records: Sequence[Record],
    name: str,
    layout: Layout,
    unseen: Collection[str],
    clock: Clock,
    left_out: Sequence[LeftOut] = (),
) -> str:
    """Writes results.json, objects.csv and table.md; with the calibration of the predicted IoU if there are scores.

    Args:
      folder: of the run.
      records: of the clips.
      name: of what was evaluated.
      layout: of the clips; the paper's figures are of LVOS.
      unseen: as in `summarise_videos`.
      clock: of this sitting.
      left_out: clips and objects that could not be evaluated.

    Returns:
      The table in Markdown.

    Raises:
      ValueError: if no object was scored, giving the first reason.
    """
    try:
        summary = summarise_videos(records, unseen)
    except ValueError as error:
        reason = f"; the first that was left out: {_described(left_out[0])}" if left_out else ""
        raise ValueError(f"{error}{reason}") from error
    calibration = calibration_of_videos(records)
    document = {
        "summary": dataclasses.asdict(summary),
        "calibration": calibration and dataclasses.asdict(calibration),
        "seconds": dict(clock.seconds),
        "left_out": [{"clip": each.benchmark, "object": each.name, "reason": each.reason} for each in left_out],
        "clips": list(records),
    }
    write_json(folder / "results.json", document)
    rows = [
        {"clip": record["clip"], "seen": record["clip"] not in unseen if unseen else "", **_scores(each)}
        for record in records
        for each in record["objects"]
    ]
    write_csv(folder / "objects.csv", rows)
    clips = sum(bool(record["objects"]) for record in records)
    notes = (
        f"{clips} clips, {summary.objects} objects; means over objects, in percent. The frame of the prompt and "
        "the last one do not count. A frame without the object counts as 1 if its mask is empty too, else as 0."
    )
    if left_out:
        notes += "\n\nLeft out:\n" + "\n".join(f"- {_described(each)}" for each in left_out)
    if calibration:
        notes += f"\n\n## Calibration of the predicted IoU\n\n{calibration_text(calibration)}"
    text = f"{_table({name: summary}, layout)}\n\n{notes}\n\n{timing_line(clock, 'scoring')}"
    write_text(folder / "table.md", f"# {name}\n\n{text}\n")
    return text


def _described(left_out: LeftOut) -> str:
    return f"clip {left_out.benchmark}{', ' * bool(left_out.name)}{left_out.name}: {left_out.reason}"


def _mean(records: Sequence[Record]) -> tuple[float, float]:
    objects = [each for record in records for each in record["objects"]]
    return float(np.mean([each["j"] for each in objects])), float(np.mean([each["f"] for each in objects]))


def _scores(each: Record) -> dict[str, float | int | str]:
    names = ("object", "first", "frames", "j", "f")
    return {**{name: each[name] for name in names}, "j&f": (each["j"] + each["f"]) / 2}


def write_video_comparison(folder: Path, summaries: Mapping[str, VideoSummary], name: str, layout: Layout) -> str:
    """Writes results.json and table.md of one model with several refiners; returns the table.

    Args:
      folder: where to.
      summaries: by refiner.
      name: of the model.
      layout: of the clips.
    """
    write_json(folder / "results.json", {model: dataclasses.asdict(summary) for model, summary in summaries.items()})
    text = _table({f"{name}, {model}": summary for model, summary in summaries.items()}, layout)
    write_text(folder / "table.md", f"# {name}: refiners\n\n{text}\n")
    return text


def _table(summaries: Mapping[str, VideoSummary], layout: Layout) -> str:
    head: tuple[str, ...] = ("J&F", "J", "F")
    paper: Mapping[str, tuple[float, ...]] = LVOS_V1
    if any(summary.seen is not None for summary in summaries.values()):
        head = ("J&F", "J seen", "F seen", "J unseen", "F unseen")
        paper = LVOS_V2
    rows = []
    for name, summary in summaries.items():
        values: tuple[float, ...] = (summary.jf, summary.j, summary.f)
        if summary.seen is not None and summary.unseen is not None:
            values = (summary.jf, *summary.seen, *summary.unseen)
        rows.append([name, *(f"{100 * value:.2f}" for value in values)])
    if layout == "lvos":
        rows += [[f"paper: {model}", *(f"{score:.1f}" for score in scores)] for model, scores in paper.items()]
    return markdown_table(["model", *head], rows)
