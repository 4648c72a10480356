"""Several refiners of one model side by side, each evaluated in a run of its own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..checkpoints import load_refiner
from ..image.canvas import Fit
from ..sam2 import SAM2
from .image import GIVEN, Clock, ImageSettings, LeftOut, evaluate_images
from .image_sets import Benchmark
from .jax_segmenter import COARSE, REFINED, JaxSegmenter
from .report import write_image_report, write_json, write_text
from .run_folder import RunFolder
from .tables import Summary, image_tables, summarise

__all__ = ["COMPARISON_REPORT", "PLAIN", "compare_refiners", "evaluate_models", "write_comparison"]

COMPARISON_REPORT = ("results.json", "table.md")
# What the model without a refiner is called beside those with one.
PLAIN = "SAM2"


def evaluate_models(
    models: Mapping[str, SAM2],
    benchmarks: Sequence[Benchmark],
    settings: ImageSettings,
    open_run: Callable[[str, JaxSegmenter], RunFolder],
    clock: Clock,
    *,
    photos_per_device: int = 1,
    fit: Fit = "squeeze",
) -> tuple[dict[str, Summary], list[LeftOut]]:
    """Evaluates models one after the other, each with its own report: of those with a refiner, its masks.

    Args:
      models: by name.
      benchmarks: the sets.
      settings: how to evaluate.
      open_run: gives the folder of a model's run.
      clock: for the time.
      photos_per_device: how many photos each device works on at once.
      fit: whether photos are squeezed or padded to a square.

    Returns:
      The means of each model, and the items that could not be evaluated.
    """
    summaries, left_out = {}, []
    for name, model in models.items():
        kinds = (COARSE if model.refiner is None else REFINED,)
        segmenter = JaxSegmenter(model, name, kinds=kinds, photos_per_device=photos_per_device, fit=fit)
        run = open_run(name, segmenter)
        left_out = evaluate_images(segmenter, benchmarks, settings, run, clock)
        write_image_report(segmenter, benchmarks, settings, run, left_out, clock)
        summaries[name] = summarise(run.records)
    return summaries, left_out


def compare_refiners(model: SAM2, refiners: Sequence[Path]) -> dict[str, SAM2]:
    """The model without a refiner and with each of these, by the names of their folders.

    Raises:
      ValueError: if two folders have one name, or one that of the model without a refiner.
      CheckpointError: if one is no refiner of this model.
    """
    names = [folder.resolve().name for folder in refiners]
    for name in names:
        if names.count(name) > 1 or name == PLAIN:
            raise ValueError(f"refiners must lie in folders of names of their own, none of them {PLAIN}; got {name}")
    loaded = [load_refiner(folder, model.config, dtype=model.dtype) for folder in refiners]
    return {PLAIN: model.with_refiner(None)} | {
        name: model.with_refiner(refiner) for name, refiner in zip(names, loaded, strict=True)
    }


def write_comparison(folder: Path, summaries: Mapping[str, Summary], name: str) -> str:
    """Writes results.json and table.md, in which a model's masks have its name; returns the tables.

    Args:
      folder: where to.
      summaries: of each model.
      name: of the model that the refiners belong to.
    """
    together: Summary = {}
    for model, summary in summaries.items():
        for prompt, masks in summary.items():
            for kind, sets in masks.items():  # rough masks that were given are every model's
                together.setdefault(prompt, {})[kind if kind == GIVEN else model] = sets
    write_json(folder / "results.json", dict(summaries))
    text = image_tables(together, name)
    write_text(folder / "table.md", f"# {name}: refiners\n\n{text}\n")
    return text
