"""The notebooks of the documents, run from their first line to their last."""

import runpy
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def named(path: Path):
    """The one that trains takes longest, by commands that have tests of their own."""
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem == "refiner" else [])


@pytest.mark.parametrize("notebook", map(named, sorted(NOTEBOOKS.glob("*.py"))))
def test_notebooks_run(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(notebook))
    assert capsys.readouterr().out
