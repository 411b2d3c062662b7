"""Writing a report: a site of pages that need no network, and the leaderboard in other forms."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import joblib

from benchmark.errors import InputError
from benchmark.store.results import find_run
from reports.board_files import BoardFiles, draw_board, summaries
from reports.boards import Board
from reports.claim_documents import Claims
from reports.claim_documents import write as write_claims
from reports.documents import Leaderboard
from reports.drawing import Palette
from reports.leaderboard import Gathered, gather, section
from reports.other_forms import CSV, write_other_forms
from reports.pages import Pages
from reports.plan import Outline, plan
from reports.submission import record

#: Cells of which a process of its own, which takes seconds to start, reads and draws more than it costs.
_CELLS_EACH = 100


def write_report(runs: list[Path], out: Path, claims: Claims | None = None) -> Path:
    """Build the report of one or more runs from their tables and images alone; boards are drawn in as many processes as there are
    cores.

    Args:
        runs: run folders.
        out: folder of the report; made, or replaced where it holds an earlier report.
        claims: those that were tested, where they shall have a page.

    Returns:
        The path of index.html.

    Raises:
        InputError: a run cannot be read, or the folder holds something else.
    """
    read = [find_run(run) for run in runs]
    gathered = gather(read)
    layout = plan([Outline(each.dataset, each.model, each.protocol, each.undefended, each.outlined()) for each in gathered])
    with _replaced(out) as draft:
        processes = joblib.Parallel(n_jobs=_processes(gathered))
        made = processes(joblib.delayed(_make)(each, layout.palette, draft, page)
                         for each, page in zip(gathered, layout.board_pages, strict=True))
        drawn = processes(joblib.delayed(summary.draw)(layout.palette, draft) for summary in summaries(made))
        document = Leaderboard("leakboard-leaderboard/4", [board for board, _ in made], [record(run) for run in read])
        write_other_forms(document, draft)
        if claims is not None:
            write_claims(claims, draft)
        Pages(document, [files for _, files in made], drawn, layout, draft, claims).write()
    return out / "index.html"


def write_leaderboard(document: Leaderboard, out: Path) -> Path:
    """Build the site of a leaderboard alone, without the figures and pictures that need the runs. As :func:`write_report`."""
    layout = plan([Outline(board.dataset, board.model, board.protocol, board.undefended, board.families)
                   for board in document.boards])
    with _replaced(out) as draft:
        write_other_forms(document, draft)
        files = [BoardFiles.of_document(board, layout.palette, draft, page)
                 for board, page in zip(document.boards, layout.board_pages, strict=True)]
        Pages(document, files, [], layout, draft).write()
    return out / "index.html"


def _processes(gathered: Sequence[Gathered]) -> int:
    """How many draw: one a core, but none that costs more than it takes off."""
    cells = sum(len(each.cells) for each in gathered)
    return max(1, min(joblib.cpu_count(), len(gathered), cells // _CELLS_EACH))


def _make(gathered: Gathered, palette: Palette, out: Path, page: str) -> tuple[Board, BoardFiles]:
    made = section(gathered)
    return made.board, draw_board(made, palette, out, page)


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` for all files of a report, which takes its place in the end, so that a report is whole or not
    there."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / CSV).is_file())):
        raise InputError(f"the output folder {out} exists and is not a report of leakboard; name another with --out")
    draft, old = (out.parent / f".{out.name}.{name}.{os.getpid()}" for name in ("new", "old"))
    try:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "assets").mkdir(parents=True)
        yield draft
        if out.exists():
            out.replace(old)
        draft.replace(out)
    except OSError as error:
        raise InputError(f"cannot write the report to {out}: {error.strerror or error}") from error
    finally:
        for folder in (draft, old):
            shutil.rmtree(folder, ignore_errors=True)
