"""The tutorial runs from top to bottom, and what it says is so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tutorial.ipynb"
#: What the prose is about, as the notebook has it at its end.
PROBE = """
import json, time
json.dump({"rows": [[*key, row] for key, row in table.items()], "ssim": [row["ssim"] for row in rebuilt.rows],
           "ranks": [1 + row["better"] for row in ranked.rows], "bound": float(bound), "pool": pools.size,
           "seconds": time.process_time()}, open("told.json", "w"), default=float)
"""


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_has_ten_cells_each_with_prose_and_what_it_gave():
    notebook = nbformat.read(NOTEBOOK, 4)
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code"] * 10
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, 11))
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6
    assert all(cell.outputs for cell in code_of(notebook)[1:])
    # Small enough to be read on the web, and of no machine.
    assert NOTEBOOK.stat().st_size < 400_000 and not re.search(r"/(home|work|root|Users)/", NOTEBOOK.read_text())


def test_it_uses_what_is_public_alone():
    source = "\n".join(cell.source for cell in code_of(nbformat.read(NOTEBOOK, 4)))
    assert not re.search(r"\b_[a-z]", source)


@pytest.mark.slow
def test_it_runs_within_two_minutes_and_shows_what_it_says(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", f"{NOTEBOOK.parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = json.loads((tmp_path / "told.json").read_text())
    rows = {(name, kind): row for name, kind, row in told["rows"]}
    assert min(told["ssim"]) >= 0.6 and told["ranks"] == [1] * 6
    assert rows["none", "blind"]["SSIM"] > 0.9 and rows["none", "blind"] == rows["none", "informed"]
    for kind in ("blind", "informed"):
        assert rows["noise", kind]["SSIM"] < 0.6 and rows["noise", kind]["identified"] == "6 of 6"
        assert rows["DP-SGD", kind]["SSIM"] < 0.1 and rows["DP-SGD", kind]["identified"] == "0 of 6" and rows["DP-SGD", kind]["median rank"] > 10
    assert rows["PRECODE", "blind"]["SSIM"] < 0.3
    assert rows["PRECODE", "informed"]["SSIM"] > 0.9 and rows["PRECODE", "informed"]["identified"] == "6 of 6"
    assert rows["DP-SGD", "blind"]["epsilon"] <= 3 and rows["noise", "blind"]["epsilon"] is None
    assert all(row["accuracy"] < rows["none", "blind"]["accuracy"] for (name, _), row in rows.items() if name != "none")
    assert told["pool"] == 200 and 1 / 200 < told["bound"] < 0.2
    assert told["seconds"] < 120  # of one core, whatever else runs
