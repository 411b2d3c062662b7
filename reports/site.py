"""Writing a report: a site of pages that need no network, and the leaderboard in other forms."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd

from benchmark.errors import InputError
from benchmark.store.results import read_run
from reports.documents import Leaderboard
from reports.leaderboard import Section, build
from reports.other_forms import CSV, write_other_forms
from reports.pages import Pages
from reports.submission import record


def write_report(runs: list[Path], out: Path) -> Path:
    """Build the report of one or more runs from their tables and images alone.

    Args:
        runs: run folders.
        out: folder of the report; made, or replaced where it holds an earlier report.

    Returns:
        The path of index.html.

    Raises:
        InputError: a run cannot be read, or the folder holds something else.
    """
    read = [read_run(run) for run in runs]
    sections = build(read)
    document = Leaderboard("leakboard-leaderboard/3", [section.board for section in sections], [record(run) for run in read])
    return _write(document, sections, out)


def write_leaderboard(document: Leaderboard, out: Path) -> Path:
    """Build the site of a leaderboard alone, without the figures and pictures that need the runs. As :func:`write_report`."""
    return _write(document, [Section(board, pd.DataFrame(), pd.DataFrame(), []) for board in document.boards], out)


def _write(document: Leaderboard, sections: list[Section], out: Path) -> Path:
    """Write all files beside ``out`` and put them in its place in the end, so that a report is whole or not there."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / CSV).is_file())):
        raise InputError(f"the output folder {out} exists and is not a report of leakboard; name another with --out")
    draft, old = (out.parent / f".{out.name}.{name}.{os.getpid()}" for name in ("new", "old"))
    try:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "assets").mkdir(parents=True)
        write_other_forms(document, draft)
        Pages(document, sections, draft).write()
        if out.exists():
            out.replace(old)
        draft.replace(out)
    except OSError as error:
        raise InputError(f"cannot write the report to {out}: {error.strerror or error}") from error
    finally:
        for folder in (draft, old):
            shutil.rmtree(folder, ignore_errors=True)
    return out / "index.html"
