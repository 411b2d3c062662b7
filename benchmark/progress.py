"""Showing how a run goes: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from benchmark.training import Epoch


class Display(Protocol):
    """What the runner tells while it works. ``share`` is how much of the current cell is done, in [0, 1]."""

    def message(self, text: str) -> None: ...
    def start_cell(self, number: int, total: int, name: str) -> None: ...
    def step(self, share: float, what: str) -> None: ...
    def epoch(self, epoch: Epoch, epochs: int) -> None: ...
    def end_cell(self, text: str) -> None: ...


class LogLines:
    """One line per event, with the time left after each cell."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._remaining = Remaining()

    def message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start_cell(self, number: int, total: int, name: str) -> None:
        self._remaining.start(number, total)
        self._name = f"[{number}/{total}] {name}"
        self.message(self._name)

    def step(self, share: float, what: str) -> None:
        self._remaining.share = share

    def epoch(self, epoch: Epoch, epochs: int) -> None:
        loss = "" if epoch.train_loss is None else f"  loss {epoch.train_loss:.4f}"
        self.message(f"  epoch {epoch.epoch}/{epochs}{loss}  test accuracy {epoch.test_accuracy:.4f}")

    def end_cell(self, text: str) -> None:
        self._remaining.share = 1.0
        self.message(f"  {text}; time left about {self._remaining.text()}")


class LiveBars:
    """Two bars below the finished cells: all cells, with the time left, and the current cell, with its epoch or attack iteration.

    The texts stand behind the bars, where a narrow terminal cuts only their ends.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            BarColumn(bar_width=20, table_column=Column(width=20)),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(width=4)),
            TimeElapsedColumn(table_column=Column(width=7)),
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console, expand=True)
        self._cells = self._progress.add_task("", total=1.0)
        self._cell = self._progress.add_task("", total=1.0)
        self._remaining = Remaining()
        self._shown = 0.0
        self._count = self._name = self._accuracy = ""

    def __enter__(self) -> LiveBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def start_cell(self, number: int, total: int, name: str) -> None:
        self._remaining.start(number, total)
        self._count, self._name, self._accuracy = f"cell {number} of {total}", name, ""
        self._progress.reset(self._cell, description=name, total=1.0)
        self._show()

    def step(self, share: float, what: str) -> None:
        self._remaining.share = share
        now = time.monotonic()
        if now - self._shown >= 0.1:  # the display redraws ten times a second; more updates only cost time
            self._shown = now
            self._progress.update(self._cell, completed=share, description=f"{what}{self._accuracy}  {self._name}")
            self._show()

    def epoch(self, epoch: Epoch, epochs: int) -> None:
        self._accuracy = f", epoch {epoch.epoch}/{epochs}, test accuracy {epoch.test_accuracy:.3f}"

    def end_cell(self, text: str) -> None:
        self._remaining.share = 1.0
        self.message(f"{self._name}: {text}")
        self._progress.update(self._cell, completed=1.0)
        self._show()

    def _show(self) -> None:
        text = f"{self._count}, time left about {self._remaining.text()}"
        self._progress.update(self._cells, completed=self._remaining.done(), description=text)


class Remaining:
    """Time left, as if the cells to come took as long as those of this run so far."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._number, self._total = 1, 1
        self.share = 0.0

    def start(self, number: int, total: int) -> None:
        self._number, self._total, self.share = number, total, 0.0

    def done(self) -> float:
        """Share of all cells that is done."""
        return (self._number - 1 + self.share) / self._total

    def text(self) -> str:
        done = self.done()
        if done <= 0:
            return "?"
        return clock((time.monotonic() - self._started) * (1 - done) / done)


def clock(seconds: float) -> str:
    """Seconds as H:MM:SS or M:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
