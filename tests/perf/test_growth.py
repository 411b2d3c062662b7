"""How planning, resuming and reporting on a run grow with its cells. ``LEAKBOARD_CELLS=10000`` measures as many too, which takes
ten minutes and 2 GB of disk.

Run with ``pytest tests/perf/test_growth.py --benchmark-only -s``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from growth_cases import SHAPES, STEPS, cost, grown_run

MOST = int(os.environ.get("LEAKBOARD_CELLS", "1000"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="memory and time are read as Linux tells them")
@pytest.mark.parametrize("tuned", [False, True], ids=["not tuned", "tuned"])
@pytest.mark.parametrize("cells", [cells for cells in SHAPES if cells <= MOST])
def test_a_run_of_many_cells(benchmark, tmp_path, cells, tuned):
    """Below 2 GiB in all processes together."""
    if tuned and cells != 1000:
        pytest.skip("trials are measured at 1,000 cells")
    shape = SHAPES[cells]
    grown_run(tmp_path, shape, tuned=tuned)
    found = benchmark.pedantic(lambda: {step: cost(step, tmp_path, shape, tuned=tuned) for step in STEPS}, rounds=1, iterations=1)
    assert f"{cells} of {cells} cells done; nothing left to do" in found["plan"].said
    assert found["resume"].said.splitlines()[-1] == f"{cells} 0 0" and (tmp_path / "site" / "index.html").is_file()
    for step, of in found.items():
        benchmark.extra_info.update({f"{step}_seconds": of.seconds, f"{step}_peak_bytes": of.peak})
        print(f"\n{cells} cells{', tuned' if tuned else ''}, {step}: {of.seconds:.1f} s of the processor, at most {of.peak / 2**30:.2f} GiB", end="")
        assert of.peak < 2**31


def test_a_plan_of_a_run_that_is_half_done(benchmark, tmp_path):
    """What is left is estimated by what is done, per cell no dearer as both become more."""
    grown_run(tmp_path, SHAPES[1000], share=0.5)
    found = benchmark.pedantic(cost, ("plan", tmp_path, SHAPES[1000]), rounds=1, iterations=1)
    assert "500 of 1000 cells done; time left about" in found.said
    benchmark.extra_info.update(seconds=found.seconds, peak_bytes=found.peak)
