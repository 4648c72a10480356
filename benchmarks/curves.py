"""Curves of training runs, one after the other, as a picture.

python benchmarks/curves.py runs/base runs/grown runs/refiner --output curves.png
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from tyro.conf import Positional

# Lines of the log that a point of the smooth curve is the mean of.
SMOOTH = 10


def main(runs: Positional[tuple[Path, ...]], output: Path = Path("out/curves.png")) -> None:
    """Draws loss and evaluation against steps.

    Args:
      runs: The folders of the runs.
      output: The picture.
    """
    figure, axes = plt.subplots(2, len(runs), figsize=(2.6 * len(runs), 5), squeeze=False, sharex="col")
    for (loss_axis, score_axis), run in zip(axes.T, runs, strict=True):
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        steps, losses = np.array([(line["step"], line["loss"]) for line in lines if "loss" in line]).T
        loss_axis.plot(steps, losses, alpha=0.3)
        if len(losses) >= SMOOTH:
            means = np.convolve(losses, np.ones(SMOOTH) / SMOOTH, "valid")
            loss_axis.plot(steps[SMOOTH - 1 :] - (steps[1] - steps[0]) * (SMOOTH - 1) / 2, means, color="C0")
        loss_axis.set(title=run.name, ylabel="loss", ylim=(0, 1.1 * np.percentile(losses, 98)))
        for name in ("coarse", "refined"):
            scores = [(line["step"], line[f"eval/{name}_iou"]) for line in lines if f"eval/{name}_iou" in line]
            if scores:
                score_axis.plot(*np.array(scores).T, marker=".", label=name)
        score_axis.set(xlabel="step", ylabel="mIoU of the evaluation", ylim=(0, 1))
        score_axis.legend(loc="lower right")
    for axis in axes.ravel():
        axis.grid(alpha=0.3)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    tyro.cli(main)
