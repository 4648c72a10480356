"""The tables that `make benchmark-gpu` writes."""

import importlib
import json
from pathlib import Path

import pytest


@pytest.fixture
def gpu_report(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("gpu_report")


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_say_ratios_and_shares_of_the_peak(gpu_report, tmp_path):
    report = gpu_report.Report({"name": "some model"}, {"device": "some card"}, remarks=["A remark."])
    products = {"ours": [0.3, 0.1, 0.1], "official": [0.2, 0.2, 0.2]}
    report.add(gpu_report.Row("product", "float32", products, gflop=1000, is_peak=True))
    # Ratios of the rounds are 1/4, 2 and 3/2; that of the medians would be 1.
    turns = {"ours": [0.1, 0.2, 0.3], "official": [0.4, 0.1, 0.2], "vos_optimized": [0.1, 0.1, 0.1]}
    report.add(gpu_report.Row("encoder", "float32", turns, items=8, gflop=500))
    assert not report.failed
    broken = {"vos_optimized": "CompileError: no compiler"}
    alone = {"ours": [0.5], "official": [0.25]}
    report.add(gpu_report.Row("frame", "bfloat16", alone, gflop=500, failures=broken))
    report.add(gpu_report.Parity("a photo", 1e-6, 2e-7, 0.0, 0.999998, 0.5))
    report.add(gpu_report.Parity("a clip", None, None, None, 0.99, 0.25))
    assert report.failed

    report.save(tmp_path / "out", "some")
    text = (tmp_path / "out" / "some.md").read_text()
    rows = {cells(line)[0]: cells(line)[1:] for line in text.splitlines() if line.startswith("|")}
    # The peak is the faster side's: 1000 GFLOP in 0.1 s.
    assert rows["product"] == ["float32", "0.1 s", "0.2 s", "", "0.50", "", "10", "100.0%, 50.0%"]
    encoder = ["float32", "0.2 s", "0.2 s", "0.1 s", "1.50", "2.00", "40", "25.0%, 25.0%, 50.0%"]
    assert rows["encoder"] == encoder
    assert rows["frame"] == ["bfloat16", "0.5 s", "0.25 s", "failed", "2.00", "", "2", ""]  # its peak is not known
    assert rows["a photo"] == ["1.0e-06", "2.0e-07", "0.0e+00", "99.9998%", "50.0%"]
    assert rows["a clip"] == ["", "", "", "99.0000%", "25.0%"]
    assert "- device: some card\n- name: some model\n" in text
    assert "A remark." in text
    assert "Failed: frame, bfloat16, vos_optimized: CompileError: no compiler" in text

    figures = json.loads((tmp_path / "out" / "some.json").read_text())
    assert figures["peak_tflop_a_second"] == {"float32": 10.0, "bfloat16": None}
    assert figures["rows"][1]["seconds"] == turns
    assert figures["rows"][1]["ours_over"] == pytest.approx({"official": 1.5, "vos_optimized": 2.0})
    assert figures["rows"][1]["share_of_peak"]["vos_optimized"] == pytest.approx(0.5)
    assert figures["parity"][1]["encoder"] is None
