"""Checks are guarded, kept within their budget, and reported as they end."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch

from gpu.checks import FAILED, MEASURED, MISSED, NOT_RUN, PASSED, SKIPPED, Bench, Check, at_most, judged, measured, not_run, skipped
from gpu.report import RUNNING, Report
from gpu.runner import of_rows, run


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def made(name, rows, seconds=10.0, **options):
    def run_(bench):
        yield from (row(bench) if callable(row) else row for row in rows)

    return Check(name, f"{name}?", seconds, run_, **options)


def ran(checks, path, seconds=100.0, clock=None):
    report = Report.begun(path, device="cpu", tiny=True, budget_seconds=seconds)
    bench = Bench(torch.device("cpu"), tiny=True, clock=clock or time.monotonic, tell=lambda text: None)
    run(checks, bench, report, seconds)
    return json.loads(path.with_suffix(".json").read_text()), report


def fails(bench):
    raise ValueError("no such thing\nand more")


def test_one_that_fails_is_reported_and_the_others_go_on(tmp_path):
    content, report = ran([made("first", [measured("a", "1"), fails]), made("second", [judged("b", True, "2", "2")])], tmp_path / "r")
    first, second = content["checks"]
    assert first["status"] == FAILED and first["reason"] == "ValueError: no such thing" and "fails(bench)" not in first["reason"]
    assert [row["name"] for row in first["rows"]] == ["a"] and "raise ValueError" in first["traceback"]
    assert second["status"] == PASSED and report.bad


def test_what_is_missed_makes_the_report_bad(tmp_path):
    content, report = ran([made("a", [judged("x", False, "3", "2"), judged("y", True, "1", "2")]), made("b", [measured("z", "1")])], tmp_path / "r")
    assert [entry["status"] for entry in content["checks"]] == [MISSED, MEASURED] and report.bad
    assert not ran([made("a", [judged("y", True, "1", "2")])], tmp_path / "r")[1].bad


def test_a_number_that_is_none_is_above_every_limit():
    assert [at_most("x", value, 1.0, "is").status for value in (1.0, 1.1, math.nan, math.inf)] == [PASSED, MISSED, MISSED, MISSED]


def test_checks_that_no_longer_fit_are_not_run(tmp_path):
    clock = Clock()

    def takes(seconds):
        def step(bench):
            clock.now += seconds
            return measured("x", "")
        return step

    checks = [made("long", [takes(60)], seconds=70), made("too long", [takes(1)], seconds=200), made("fits", [takes(10)], seconds=60),
              made("late", [takes(1)], seconds=91)]
    content, report = ran(checks, tmp_path / "r", 100.0, clock)
    assert [entry["status"] for entry in content["checks"]] == [MEASURED, NOT_RUN, MEASURED, NOT_RUN]
    assert content["checks"][1]["reason"] == "40 s were left of the budget, it takes up to 200" and not report.bad


def test_a_check_knows_what_is_left_of_its_seconds_and_of_the_budget(tmp_path):
    clock, left = Clock(), []

    def note(bench):
        left.append(bench.left())
        clock.now += 25
        return measured("x", "")

    ran([made("a", [note], seconds=20), made("b", [note], seconds=40)], tmp_path / "r", 40.0, clock)
    assert left == [20, 15]


def test_a_check_that_does_not_end_is_stopped(tmp_path):
    def hangs(bench):
        try:
            time.sleep(30)
        except Exception:  # whatever guards a computation against failures of its own lets the end pass
            return measured("went on", "")

    started = time.monotonic()
    content, _ = ran([made("endless", [measured("a", ""), hangs], seconds=0.3), made("next", [measured("b", "")])], tmp_path / "r")
    assert time.monotonic() - started < 10
    assert [row["status"] for row in content["checks"][0]["rows"]] == [MEASURED, NOT_RUN]
    assert content["checks"][1]["status"] == MEASURED


def test_what_is_missing_is_named(tmp_path):
    content, _ = ran([made("needs", [fails], needs=("torch", "no_such_package")), made("gpu", [fails], gpu_only=True)], tmp_path / "r")
    assert [(entry["status"], entry["reason"]) for entry in content["checks"]] == [
        (SKIPPED, "needs no_such_package"), (SKIPPED, "there is nothing to see without a GPU")]


def test_the_report_is_whole_while_a_check_runs(tmp_path):
    path, seen = tmp_path / "r", []

    def look(bench):
        seen.append(json.loads(path.with_suffix(".json").read_text()))
        assert "| first | passed |" in path.with_suffix(".md").read_text()
        return measured("b", "")

    ran([made("first", [judged("a", True, "1", "2")]), made("second", [look])], path)
    assert [entry["status"] for entry in seen[0]["checks"]] == [PASSED, RUNNING]
    assert [row["name"] for row in seen[0]["checks"][0]["rows"]] == ["a"]


def test_a_report_goes_on_where_a_process_ended(tmp_path):
    path = tmp_path / "r"
    report = Report.begun(path, device="cpu", tiny=True, budget_seconds=1.0)
    report.end(report.begin(made("done", [])), PASSED)
    report.begin(made("crashed", []))
    again = Report.read(path)
    again.fail_running("its process ended with code -11")
    assert again.done() == {"done", "crashed"} and again.bad
    assert "its process ended with code -11" in path.with_suffix(".md").read_text()


def test_a_check_that_hangs_is_seen_from_outside(tmp_path):
    report = Report.begun(tmp_path / "r", device="cpu", tiny=True, budget_seconds=1.0)
    entry = report.begin(made("a", [], seconds=5.0))
    assert not report.hangs(10.0)
    entry["began"] -= 16
    assert report.hangs(10.0)
    report.end(entry, PASSED)
    assert not report.hangs(10.0)


def test_numbers_that_json_does_not_have_are_texts(tmp_path):
    content, _ = ran([made("a", [measured("x | y", "1\n2", value=math.inf, other=[math.nan, 1.5])])], tmp_path / "r")
    assert content["checks"][0]["rows"][0]["values"] == {"value": "inf", "other": ["nan", 1.5]}
    assert "| x \\| y | 1 2 |" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize(("statuses", "outcome"), [
    ([PASSED, MISSED, SKIPPED], MISSED), ([MEASURED, PASSED], PASSED), ([NOT_RUN, MEASURED], MEASURED), ([SKIPPED], SKIPPED), ([], NOT_RUN),
    ([NOT_RUN], NOT_RUN)])
def test_what_rows_come_to(statuses, outcome):
    assert of_rows(statuses) == outcome
    assert not_run("x").status == NOT_RUN and skipped("x", "y").status == SKIPPED


def test_the_report_lies_where_it_was_asked_for(tmp_path):
    ran([made("a", [measured("x", "")])], tmp_path / "some.report")
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["some.json", "some.md"]
