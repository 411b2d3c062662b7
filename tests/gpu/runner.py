"""Runs checks one after another within a budget of time: one that fails is reported, and the others go on."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from gpu.checks import BAD, FAILED, MEASURED, MISSED, NOT_RUN, PASSED, SKIPPED, Bench, Check, OutOfTime, Row, missing, not_run
from gpu.report import Report

#: The share of its seconds that has to be left for a check to begin.
_WORTH_BEGINNING = 1 / 3
#: The exit code of a process whose GPU answers no more; what is left is run in another.
LOST = 70


class DeviceLost(Exception):
    """The context of the GPU is broken, as after an illegal access: nothing more can be computed in this process."""


def run(checks: Sequence[Check], bench: Bench, report: Report, seconds: float) -> None:
    """Run checks in their order, and write the report after each row.

    Args:
        checks: in order of importance.
        bench: where.
        report: gets an entry for each.
        seconds: for all of them.

    Raises:
        DeviceLost: see there; the check that was under way is reported as failed.
    """
    end = bench.clock() + seconds
    for check in checks:
        left = end - bench.clock()
        entry = report.begin(check)
        if gone := missing(check.needs):
            report.end(entry, SKIPPED, f"needs {', '.join(gone)}")
        elif check.gpu_only and not bench.gpu:
            report.end(entry, SKIPPED, "there is nothing to see without a GPU")
        elif left < check.seconds * _WORTH_BEGINNING:
            report.end(entry, NOT_RUN, f"{max(left, 0):.0f} s were left of the budget, it takes up to {check.seconds:.0f}")
        else:
            bench.until = bench.clock() + min(check.seconds, left)
            _guarded(check, bench, report, entry)
        if entry["status"] == FAILED and bench.gpu:
            _require_device(bench, report)


def _guarded(check: Check, bench: Bench, report: Report, entry: dict[str, Any]) -> None:
    """Run one check; whatever it raises ends it alone."""
    bench.tell(f"\n== {check.name}: {check.question}")
    started = last = time.perf_counter()
    try:
        with _alarm(bench.left()):
            for row in check.run(bench):
                row.seconds, last = time.perf_counter() - last, time.perf_counter()
                entry["rows"].append(asdict(row))
                bench.tell(line(row))
                report.write()
    except OutOfTime:
        row = not_run("the rest", f"the check was stopped after {time.perf_counter() - started:.0f} s")
        entry["rows"].append(asdict(row))
        bench.tell(line(row))
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        entry["traceback"] = traceback.format_exc()
        bench.tell(entry["traceback"])
        entry["seconds"] = time.perf_counter() - started
        report.end(entry, FAILED, f"{type(error).__name__}: {first}"[:300])
        return
    entry["seconds"] = time.perf_counter() - started
    report.end(entry, of_rows([row["status"] for row in entry["rows"]]))


def of_rows(statuses: Sequence[str]) -> str:
    """What becomes of a check with such rows."""
    for status, outcome in ((FAILED, MISSED), (MISSED, MISSED), (PASSED, PASSED), (MEASURED, MEASURED), (SKIPPED, SKIPPED)):
        if status in statuses:
            return outcome
    return NOT_RUN


def line(row: Row) -> str:
    """A row as it is printed."""
    told = row.found + (f" ({row.tolerance})" if row.tolerance else "") + (f" [{row.reason}]" if row.reason else "")
    mark = "!!" if row.status in BAD else "  "
    return f"{mark} {row.status:8} {row.name}: {told.strip()}  {row.seconds:.1f} s"


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` in the main thread when the time is up; elsewhere nothing stops a check."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer") or seconds == float("inf"):
        yield
        return

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _require_device(bench: Bench, report: Report) -> None:
    try:
        torch.cuda.synchronize(bench.device)
        torch.ones(2, device=bench.device).sum().item()
    except Exception as error:
        report.write()
        raise DeviceLost(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
