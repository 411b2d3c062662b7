from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmark.progress import LiveBars, LogLines, Remaining
from benchmark.training import Epoch


@pytest.mark.parametrize("terminal", [True, False])
def test_names_with_markup_stay_text(terminal):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    display = LiveBars(console) if terminal else LogLines(console)
    display.start_cell(1, 2, "[red]x[/] / seed 0")
    display.step(0.5, "inverting-gradients 5/10")
    display.epoch(Epoch(1, 0.5, 0.25, None, None, 1.0, None), 2)
    display.end_cell("done in 1.0 s")
    assert "[red]x[/] / seed 0" in output.getvalue()
    assert "done in 1.0 s" in output.getvalue()


def test_time_left_is_in_proportion(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    remaining = Remaining()
    remaining.start(2, 4)
    remaining.share = 0.5
    now[0] = 100.0 + 90
    assert remaining.done() == pytest.approx(1.5 / 4)
    assert remaining.text() == "2:30"
