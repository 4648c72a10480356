"""Calibration: how near the IoU that a tracker predicts of its masks is to the IoU that is measured."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float

from .run_folder import Record
from .tables import NOTHING, markdown_table

__all__ = ["BINS", "Bin", "Calibration", "calibration_of", "calibration_of_videos", "calibration_text"]

BINS = 10


@dataclasses.dataclass(frozen=True)
class Bin:
    """The masks whose predicted IoU is in an interval.

    Attributes:
      low: where the interval begins.
      high: where it ends; this number is in the next one, but for 1.
      count: how many masks there are.
      predicted: their mean predicted IoU; None if there are none.
      measured: their mean measured IoU.
    """

    low: float
    high: float
    count: int
    predicted: float | None
    measured: float | None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The IoU that was predicted of masks against the IoU that was measured.

    Attributes:
      masks: how many there are: one for each object and scored frame in which the tracker took the object for present.
      absent: how many scored frames are left out because it took the object for absent: its empty mask is none of which
        it predicted anything.
      unknown: how many are left out because an earlier version tracked their clips and kept no scores.
      error: the expected calibration error: the distance between both means of a bin, averaged over masks.
      rank_correlation: Spearman's, with ties; None where either is constant.
      bins: ten of equal width.
    """

    masks: int
    absent: int
    unknown: int
    error: float | None
    rank_correlation: float | None
    bins: tuple[Bin, ...]


def calibration_of(
    predicted: Float[np.ndarray, " masks"], measured: Float[np.ndarray, " masks"], absent: int = 0, unknown: int = 0
) -> Calibration:
    """The calibration of predictions.

    Args:
      predicted: IoU of each mask, in [0, 1].
      measured: likewise.
      absent: how many frames were left out because the object was taken for absent.
      unknown: how many were left out because no scores of them were kept.
    """
    which = np.digitize(predicted, np.arange(1, BINS) / BINS)
    bins = []
    for place in range(BINS):
        of_bin = which == place
        count = int(of_bin.sum())
        means = [float(values[of_bin].mean()) if count else None for values in (predicted, measured)]
        bins.append(Bin(place / BINS, (place + 1) / BINS, count, *means))
    error = rank_correlation = None
    if len(predicted):
        # A bin's size times the distance of its means is the distance of its sums.
        error = float(np.abs(np.bincount(which, predicted - measured, BINS)).sum() / len(predicted))
        if min(np.ptp(predicted), np.ptp(measured)) > 0:
            rank_correlation = float(scipy.stats.spearmanr(predicted, measured).statistic)
    return Calibration(len(predicted), absent, unknown, error, rank_correlation, tuple(bins))


def calibration_of_videos(records: Sequence[Record]) -> Calibration | None:
    """The calibration of a run's records; None if the tracker gave no scores."""
    if not any("scores" in record for record in records):
        return None
    pairs, absent, unknown = [], 0, 0
    for logit, predicted, measured in _scored(records):
        if predicted is None:
            unknown += 1
        elif logit is None or logit <= 0:
            absent += 1
        else:
            pairs.append((predicted, measured))
    predicted_iou, measured_iou = np.array(pairs, np.float64).reshape(-1, 2).T
    return calibration_of(predicted_iou, measured_iou, absent, unknown)


def _scored(records: Sequence[Record]) -> Iterator[tuple[float | None, float | None, float]]:
    """For each object and scored frame the object score's logit, the predicted IoU, and J."""
    for record in records:
        of_object = {each["object"]: each for each in record.get("scores", ())}
        for each in record["objects"]:
            nothing = [None] * each["frames"]
            scores = of_object.get(each["object"], {"object_score_logits": nothing, "predicted_iou": nothing})
            yield from zip(scores["object_score_logits"], scores["predicted_iou"], each["j_by_frame"], strict=True)


def calibration_text(calibration: Calibration) -> str:
    """The table of bins and what is to be said of it, in Markdown."""
    rows = [
        [f"{b.low:.1f} to {b.high:.1f}", str(b.count), _shown(b.predicted), _shown(b.measured)]
        for b in calibration.bins
    ]
    table = markdown_table(["predicted IoU", "masks", "mean predicted", "mean measured (J)"], rows)
    notes = (
        f"Expected calibration error {_shown(calibration.error)}, rank correlation (Spearman) "
        f"{_shown(calibration.rank_correlation)}, over {calibration.masks} masks: one for each object and scored frame "
        "in which the tracker took the object for present. The predicted IoU is that of SAM 2's own mask: where a "
        "refiner made it finer, the finer one is what is measured."
    )
    for count, why in (
        (calibration.absent, "the object was taken for absent, so that the mask is empty whatever was predicted of it"),
        (calibration.unknown, "an earlier version tracked their clips, without scores"),
    ):
        notes += f" {count} frames do not count because {why}." if count else ""
    return f"{table}\n\n{notes}"


def _shown(value: float | None) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{value:.3f}"
