"""Plots of the image benchmark: number of points against mIoU, and the histogram of what refining gains."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import new_file
from .image_sets import HQ_SAM_SETS
from .paper import POINTS
from .run_folder import Record
from .tables import AVERAGE, Summary
from .truth_prompts import point_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gains", "main_prompt", "new_figure", "plot_gains", "plot_points", "save_figure"]


def main_prompt(records: Sequence[Record]) -> str | None:
    """The first kind of prompt that gives one mask; None if there are only clicks."""
    prompts = (result["prompt"] for record in records[:1] for result in record["results"] if "iou" in result)
    return next(prompts, None)


def gains(records: Sequence[Record]) -> list[tuple[float, Record]]:
    """How much IoU the last kind of mask has over the first, by item, under the main prompt; none if there is one."""
    prompt = main_prompt(records)
    found = []
    for record in records:
        ious = [result["iou"] for result in record["results"] if result["prompt"] == prompt]
        if len(ious) > 1:
            found.append((ious[-1] - ious[0], record))
    return found


def plot_points(summary: Summary, name: str, path: Path) -> bool:
    """Draws number of points against mIoU, with the paper's lines if the sets are the paper's; False if there is none.

    Args:
      summary: the means.
      name: of what was evaluated.
      path: of the picture.
    """
    by_count = {count: summary[kind] for kind in summary if (count := point_count(kind)) is not None}
    if not by_count:
        return False
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    counts = sorted(by_count)
    for mask in by_count[counts[0]]:
        axes.plot(counts, [100 * by_count[c][mask][AVERAGE]["iou"] for c in counts], "o-", label=f"{name}, {mask}")
    if all(set(entries) == {*HQ_SAM_SETS, AVERAGE} for found in by_count.values() for entries in found.values()):
        for model, scores in POINTS.items():
            axes.plot(list(scores), [s.iou for s in scores.values()], "x--", linewidth=1, label=f"paper: {model}")
    axes.set(xlabel="points", ylabel="mIoU, average of the sets (%)", xticks=counts, ylim=(0, 100))
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)
    return True


def plot_gains(records: Sequence[Record], path: Path) -> bool:
    """Draws the histogram of the gain of each item; False if there is one kind of mask only."""
    found = [100 * gain for gain, _ in gains(records)]
    if not found:
        return False
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    axes.hist(found, bins=41, range=(-100, 100))
    mean = sum(found) / len(found)
    axes.axvline(mean, color="black", linewidth=1, label=f"mean {mean:+.2f}")
    better = sum(gain > 0 for gain in found)
    first, *_, final = [r["mask"] for r in records[0]["results"] if r["prompt"] == main_prompt(records)]
    title = f"prompt {main_prompt(records)}: better {better}, worse {sum(g < 0 for g in found)} of {len(found)}"
    label = f"IoU of the {final} mask minus that of the {first} one (points)"
    axes.set(xlabel=label, ylabel="items", title=title)
    axes.set_yscale("symlog")
    axes.legend()
    save_figure(figure, path)
    return True


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches.

    Raises:
      ValueError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError("plots need matplotlib: pip install 'sam2refiner_jax[eval]'") from error
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes the figure; a picture of that name is replaced."""
    with new_file(path, overwrite=True) as partial:
        figure.savefig(partial)
