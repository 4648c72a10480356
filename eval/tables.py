"""From records of the image benchmark to means, and to Markdown tables in the paper's layout."""

import collections
from collections.abc import Sequence

import numpy as np

from .image import GIVEN, MAX_CLICKS, NOC_TARGETS
from .image_sets import HQ_SAM_SETS
from .paper import BOXES, POINTS, Score
from .run_folder import Record
from .truth_prompts import BOX, CLICKS, folder_of_masks, point_count

__all__ = ["AVERAGE", "Summary", "image_tables", "markdown_table", "percent", "reported", "summarise"]

AVERAGE = "average"
NOTHING = "-"

# By measure, and the number of items.
Means = dict[str, float | int]
# By kind of prompt, kind of mask, and set (or AVERAGE, of the sets).
Summary = dict[str, dict[str, dict[str, Means]]]


def summarise(records: Sequence[Record]) -> Summary:
    """Means over the items of each set; of its clips, where a set consists of clips."""
    values: dict[tuple[str, str, str], dict[str, dict[str, list[float]]]] = {}
    for record in records:
        for result in record["results"]:
            key = result["prompt"], result["mask"], record["benchmark"]
            groups = values.setdefault(key, collections.defaultdict(lambda: collections.defaultdict(list)))
            for measure, value in _measures(result).items():
                groups[record["group"]][measure].append(value)
    summary: Summary = {}
    for (prompt, mask, benchmark), groups in values.items():
        means = [{measure: np.mean(found) for measure, found in group.items()} for group in groups.values()]
        entry: Means = {measure: float(np.mean([mean[measure] for mean in means])) for measure in means[0]}
        entry["items"] = sum(len(next(iter(group.values()))) for group in groups.values())
        summary.setdefault(prompt, {}).setdefault(mask, {})[benchmark] = entry
    for masks in summary.values():
        for sets in masks.values():
            entries = list(sets.values())
            sets[AVERAGE] = {m: float(np.mean([e[m] for e in entries])) for m in entries[0] if m != "items"}
            sets[AVERAGE]["items"] = sum(entry["items"] for entry in entries)
    return summary


def _measures(result: Record) -> dict[str, float]:
    if result["prompt"] != CLICKS:
        return {"iou": result["iou"], "boundary_iou": result["boundary_iou"]}
    # After the last click that was needed, the mask stays.
    curve = result["ious"] + [result["ious"][-1]] * (MAX_CLICKS - len(result["ious"]))
    measures = {f"noc{target}": float(result[f"noc{target}"]) for target in NOC_TARGETS}
    failed = {f"failed{target}": float(max(curve) < target / 100) for target in NOC_TARGETS}
    return measures | failed | {f"iou@{count}": value for count, value in enumerate(curve, start=1)}


def image_tables(summary: Summary, name: str) -> str:
    """Tables 1 and 3 of the paper, and one of clicks, as far as there are such results; the paper's figures beside.

    Args:
      summary: the means.
      name: of what was evaluated.
    """
    parts = []
    if BOX in summary:
        parts.append("## Boxes from the truth, mIoU / mBIoU\n\n" + _box_table(summary[BOX], name))
    for kind, masks in summary.items():
        if (folder := folder_of_masks(kind)) is not None:
            title = f"## Rough masks of the folder {folder.name}, mIoU / mBIoU\n\n"
            parts.append(title + _score_table(masks, _columns(masks), name))
    counts = sorted(count for kind in summary if (count := point_count(kind)) is not None)
    if counts:
        title = "## Random points on the object, mIoU / mBIoU, average of the sets\n\n"
        parts.append(title + _points_table(summary, counts, name))
    if CLICKS in summary:
        title = f"## Interactive clicks, NoC@{NOC_TARGETS[0]} / NoC@{NOC_TARGETS[1]}, of at most {MAX_CLICKS}\n\n"
        parts.append(title + _clicks_table(summary[CLICKS], name))
    return "\n\n".join(parts)


def _box_table(masks: dict[str, dict[str, Means]], name: str) -> str:
    sets = _columns(masks)
    rows = []
    if set(sets) & set(HQ_SAM_SETS):
        shown = [s for s in sets if s != AVERAGE or set(sets) == {*HQ_SAM_SETS, AVERAGE}]
        for model, scores in BOXES.items():
            cells = [reported(scores.get(s) if s in shown else None) for s in sets]
            rows.append([f"paper: {model}", *cells])
    return _score_table(masks, sets, name, rows)


def _score_table(
    masks: dict[str, dict[str, Means]], sets: Sequence[str], name: str, others: Sequence[Sequence[str]] = ()
) -> str:
    rows = [
        [kind if kind == GIVEN else f"{name}, {kind}", *(percent(entries[s]) for s in sets)]
        for kind, entries in masks.items()
    ]
    return markdown_table(["model", *sets], [*rows, *others])


def _columns(masks: dict[str, dict[str, Means]]) -> list[str]:
    """The sets, and their average where there are several."""
    sets = list(next(iter(masks.values())))
    return sets if len(sets) > 2 else sets[:1]


def _points_table(summary: Summary, counts: Sequence[int], name: str) -> str:
    by_count = {count: summary[f"points-{count}"] for count in counts}
    masks = list(by_count[counts[0]])
    is_paper = all(set(entries) == {*HQ_SAM_SETS, AVERAGE} for found in by_count.values() for entries in found.values())
    papers = list(POINTS) if is_paper else []
    rows = []
    for count, found in by_count.items():
        theirs = [reported(POINTS[model].get(count)) for model in papers]
        rows.append([str(count), *(percent(found[mask][AVERAGE]) for mask in masks), *theirs])
    return markdown_table(["points", *(f"{name}, {mask}" for mask in masks), *(f"paper: {m}" for m in papers)], rows)


def _clicks_table(masks: dict[str, dict[str, Means]], name: str) -> str:
    sets = _columns(masks)
    rows = []
    for kind, entries in masks.items():
        cells = [" / ".join(f"{entries[s][f'noc{target}']:.2f}" for target in NOC_TARGETS) for s in sets]
        rows.append([f"{name}, {kind}", *cells])
        cells = [" / ".join(f"{entries[s][f'failed{target}']:.1%}" for target in NOC_TARGETS) for s in sets]
        rows.append([f"{name}, {kind}: never reached", *cells])
    return markdown_table(["model", *sets], rows)


def percent(entry: Means) -> str:
    """Our mIoU / mBIoU in percent."""
    return f"{100 * entry['iou']:.2f} / {100 * entry['boundary_iou']:.2f}"


def reported(score: Score | None) -> str:
    """The paper's mIoU / mBIoU, if it has one."""
    return f"{score.iou:.1f} / {score.boundary_iou:.1f}" if score else NOTHING


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
