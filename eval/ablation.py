"""The ablation: Localization Augment, Prompt Retargeting and Mask Refinement in all eight combinations (Table 4)."""

from collections.abc import Mapping
from pathlib import Path

from ..checkpoints import load_refiner
from ..sam2 import SAM2
from .comparison import PLAIN as WITHOUT
from .paper import ABLATION
from .report import write_json, write_text
from .tables import AVERAGE, Summary, markdown_table, percent, reported

__all__ = [
    "ABLATION_REPORT",
    "COMBINATIONS",
    "MODULES",
    "find_refiners",
    "models_of",
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
    return "+".join(name for name, is_on in zip(MODULES, combination, strict=True) if is_on) or WITHOUT


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


def models_of(model: SAM2, refiners: Mapping[Combination, Path]) -> dict[str, SAM2]:
    """The plain model, and the one with each refiner, by the combination's name.

    Args:
      model: without a refiner.
      refiners: a refiner's directory for each combination, trained so.

    Raises:
      ValueError: if a refiner has other modules than its combination says.
    """
    models = {name_of(PLAIN): model}
    for combination, directory in refiners.items():
        refiner = load_refiner(directory, model.config, dtype=model.dtype)
        la, pr, mr = (bool(getattr(refiner.config, field, False)) for field in MODULES.values())
        if (la, pr, mr) != combination:
            wrong = name_of((la, pr, mr))
            raise ValueError(f"{directory} must be a refiner with {name_of(combination)} only, it has {wrong}")
        models[name_of(combination)] = model.with_refiner(refiner)
    return models


def write_ablation_report(folder: Path, summaries: Mapping[str, Summary]) -> str:
    """Writes results.json and table.md of combinations by name; returns the table."""
    write_json(folder / "results.json", dict(summaries))
    text = ablation_table(summaries)
    write_text(folder / "table.md", f"# Ablation\n\n{text}\n")
    return text


def ablation_table(summaries: Mapping[str, Summary]) -> str:
    """Table 4 with the paper's figures beside ours; a dash where there is none."""
    rows = []
    for combination in COMBINATIONS:
        cells = ["yes" if is_on else "" for is_on in combination]
        ours = "-"
        if name_of(combination) in summaries:
            (masks,) = summaries[name_of(combination)].values()
            (sets,) = masks.values()
            ours = percent(sets[AVERAGE])
        rows.append([*cells, ours, reported(ABLATION.get(combination))])
    head = [*MODULES, "mIoU / mBIoU, average of the sets", "paper: average of its four sets"]
    return markdown_table(head, rows)
