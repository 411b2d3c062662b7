"""A report of 2,000 cells."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))

from report_cases import large_run

from reports.site import write_report

SECONDS, FIRST_PAGE = 60, 2_000_000


def test_a_report_over_2000_cells(benchmark, tmp_path):
    """Built in under 60 s; the first page, with its scripts, styles and the figure that is not folded, stays under 2 MB."""
    run = large_run(tmp_path / "run")
    assert len(list((run / "cells").iterdir())) == 2000
    index = benchmark.pedantic(write_report, ([run], tmp_path / "site"), rounds=1, iterations=1)
    site = index.parent
    loaded = [index, *(site / "assets" / name for name in ("style.css", "leakboard.js", "datatables.css", "datatables.js")),
              site / "assets" / "summary-0.svg"]
    benchmark.extra_info.update(first_page_bytes=sum(path.stat().st_size for path in loaded), pages=len(list(site.glob("*.html"))))
    assert benchmark.extra_info["first_page_bytes"] < FIRST_PAGE
    assert benchmark.stats.stats.max < SECONDS
