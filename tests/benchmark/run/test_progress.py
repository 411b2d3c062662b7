from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmark.measure.training import Epoch
from benchmark.run.progress import LiveBars, LogLines, Remaining


@pytest.mark.parametrize("terminal", [True, False])
def test_names_with_markup_stay_text(terminal):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    display = LiveBars(console) if terminal else LogLines(console)
    first, second = "[red]x[/] / seed 0", "y / seed 1"
    display.begin(2)
    for name in (first, second):
        display.start_cell(name)
        display.step(name, 0.5, "inverting-gradients 5/10")
        display.epoch(name, Epoch(1, 0.5, 0.25, None, None, 1.0, None), 2)
    display.end_cell(second, "done in 1.0 s")
    display.start_cell(first)  # its machine was lost
    display.end_cell(first, "done in 2.0 s")
    assert "[red]x[/] / seed 0" in output.getvalue()
    if not terminal:
        assert "  [2/2] done in 1.0 s; time left about" in output.getvalue() and "\n  done in 2.0 s" in output.getvalue()
    assert "done in 1.0 s" in output.getvalue()


def test_time_left_is_in_proportion(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    remaining = Remaining()
    remaining.begin(4)
    remaining.note("a", 0.2)
    remaining.end("a")
    remaining.note("b", 0.25)
    remaining.note("c", 0.25)
    now[0] = 100.0 + 90
    assert remaining.done() == pytest.approx(1.5 / 4)
    assert remaining.text() == "2:30"
