"""The ablation: Localization Augment, Prompt Retargeting and Mask Refinement in all eight combinations (Table 4)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..checkpoints import load_refiner
from ..sam2 import SAM2
from .image import Clock, ImageSettings, LeftOut, evaluate_images
from .image_sets import Benchmark
from .jax_segmenter import COARSE, REFINED, JaxSegmenter
from .paper import ABLATION
from .report import write_image_report, write_json, write_text
from .run_folder import RunFolder
from .tables import AVERAGE, Summary, markdown_table, percent, reported, summarise

__all__ = [
    "ABLATION_REPORT",
    "COMBINATIONS",
    "MODULES",
    "evaluate_combinations",
    "find_refiners",
    "write_ablation_report",
]

ABLATION_REPORT = ("results.json", "table.md")
MODULES = {"LA": "localization_augment", "PR": "prompt_retargeting", "MR": "mask_refinement"}
Combination = tuple[bool, bool, bool]
# All eight in the paper's order; the second and third of one module are not in the paper.
COMBINATIONS: tuple[Combination, ...] = (
    (False, False, False),
    (True, False, False),
    (False, True, False),
    (False, False, True),
    (True, True, False),
    (True, False, True),
    (False, True, True),
    (True, True, True),
)
PLAIN = COMBINATIONS[0]


def name_of(combination: Combination) -> str:
    """Such as "LA+MR"; "SAM2" for none."""
    return "+".join(name for name, is_on in zip(MODULES, combination, strict=True) if is_on) or "SAM2"


def find_refiners(folder: Path) -> dict[Combination, Path]:
    """The refiners of a folder that has one of each combination, named LA, PR, MR, LA+PR, LA+MR, PR+MR, LA+PR+MR.

    Raises:
      ValueError: if it has none.
    """
    names = {name_of(combination): combination for combination in COMBINATIONS if combination != PLAIN}
    found = {combination: folder / name for name, combination in names.items() if (folder / name).is_dir()}
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise ValueError(f"{folder} must hold a refiner for each combination, named {', '.join(names)}; found {there}")
    return found


def evaluate_combinations(
    model: SAM2,
    refiners: Mapping[Combination, Path],
    benchmarks: Sequence[Benchmark],
    settings: ImageSettings,
    open_run: Callable[[str, JaxSegmenter], RunFolder],
    clock: Clock,
) -> tuple[dict[Combination, Summary], list[LeftOut]]:
    """Evaluates the plain model, and with each refiner, each in a run of its own.

    Args:
      model: without a refiner.
      refiners: a refiner's directory for each combination, trained so.
      benchmarks: the sets.
      settings: how to evaluate.
      open_run: gives the folder of a combination's run.
      clock: for the time.

    Returns:
      The means of each combination, and the items that could not be evaluated.

    Raises:
      ValueError: if a refiner has other modules than its combination says.
    """
    models = {PLAIN: model}
    for combination, directory in refiners.items():
        refiner = load_refiner(directory, model.config, dtype=model.dtype)
        la, pr, mr = (bool(getattr(refiner.config, field, False)) for field in MODULES.values())
        if (la, pr, mr) != combination:
            wrong = name_of((la, pr, mr))
            raise ValueError(f"{directory} must be a refiner with {name_of(combination)} only, it has {wrong}")
        models[combination] = model.with_refiner(refiner)
    summaries, left_out = {}, []
    for combination, refined in models.items():
        name = name_of(combination)
        segmenter = JaxSegmenter(refined, name, kinds=(COARSE if combination == PLAIN else REFINED,))
        run = open_run(name, segmenter)
        left_out = evaluate_images(segmenter, benchmarks, settings, run, clock)
        write_image_report(segmenter, benchmarks, settings, run, left_out, clock)
        summaries[combination] = summarise(run.records)
    return summaries, left_out


def write_ablation_report(folder: Path, summaries: Mapping[Combination, Summary]) -> str:
    """Writes results.json and table.md; returns the table."""
    write_json(folder / "results.json", {name_of(combination): s for combination, s in summaries.items()})
    text = ablation_table(summaries)
    write_text(folder / "table.md", f"# Ablation\n\n{text}\n")
    return text


def ablation_table(summaries: Mapping[Combination, Summary]) -> str:
    """Table 4 with the paper's figures beside ours; a dash where there is none."""
    rows = []
    for combination in COMBINATIONS:
        cells = ["yes" if is_on else "" for is_on in combination]
        ours = "-"
        if combination in summaries:
            (masks,) = summaries[combination].values()
            (sets,) = masks.values()
            ours = percent(sets[AVERAGE])
        rows.append([*cells, ours, reported(ABLATION.get(combination))])
    head = [*MODULES, "mIoU / mBIoU, average of the sets", "paper: average of its four sets"]
    return markdown_table(head, rows)
