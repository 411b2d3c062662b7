"""A report of 2,000 cells."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))

from report_cases import large_run

from benchmark.specification import AS_TRAINED, SINGLE
from reports.site import write_report

FIRST_PAGE = 2_000_000


@pytest.mark.parametrize(("observed", "seconds"), [((SINGLE,), 30), ((AS_TRAINED, SINGLE), 60)], ids=["one mode", "two modes"])
def test_a_report_over_2000_cells(benchmark, tmp_path, observed, seconds):
    """Built in under 30 s, of two modes, which are twice the results, in twice that; the first page, with its scripts, styles and all
    figures that are not folded, stays under 2 MB."""
    run = large_run(tmp_path / "run", observed=observed)
    assert len(list((run / "cells").iterdir())) == 2000
    index = benchmark.pedantic(write_report, ([run], tmp_path / "site"), rounds=1, iterations=1)
    site = index.parent
    loaded = [index, *(site / "assets" / name for name in ("style.css", "leakboard.js", "datatables.css", "datatables.js")),
              *(path for path in (site / "assets").glob("*-tradeoff.svg"))]
    benchmark.extra_info.update(first_page_bytes=sum(path.stat().st_size for path in loaded), pages=len(list(site.glob("*.html"))))
    assert benchmark.extra_info["first_page_bytes"] < FIRST_PAGE
    assert benchmark.stats.stats.max < seconds
