"""Showing how a run goes: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from benchmark.measure.training import Epoch


class Display(Protocol):
    """What the runner tells while it works; several cells, told apart by their names, can be under way. ``share`` is how much of a
    cell is done, in [0, 1]."""

    def begin(self, total: int) -> None: ...
    def message(self, text: str) -> None: ...
    def start_cell(self, name: str) -> None: ...
    def step(self, name: str, share: float, what: str) -> None: ...
    def epoch(self, name: str, epoch: Epoch, epochs: int) -> None: ...
    def end_cell(self, name: str, text: str) -> None: ...


class LogLines:
    """One line per event, with the time left after each cell."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._remaining = Remaining()
        self._numbers: dict[str, str] = {}

    def begin(self, total: int) -> None:
        self._remaining.begin(total)
        self._numbers.clear()

    def message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start_cell(self, name: str) -> None:
        self._numbers.setdefault(name, f"[{len(self._numbers) + 1}/{self._remaining.total}]")
        self._remaining.note(name, 0.0)
        self.message(f"{self._numbers[name]} {name}")

    def step(self, name: str, share: float, what: str) -> None:
        self._remaining.note(name, share)

    def epoch(self, name: str, epoch: Epoch, epochs: int) -> None:
        loss = "" if epoch.train_loss is None else f"  loss {epoch.train_loss:.4f}"
        self.message(f"{self._of(name)}epoch {epoch.epoch}/{epochs}{loss}  test accuracy {epoch.test_accuracy:.4f}")

    def end_cell(self, name: str, text: str) -> None:
        of = self._of(name)
        self._remaining.end(name)
        self.message(f"{of}{text}; time left about {self._remaining.text()}")

    def _of(self, name: str) -> str:
        """The number of the cell where several are under way."""
        return f"  {self._numbers[name]} " if len(self._remaining.under_way()) > 1 else "  "


class LiveBars:
    """Bars below the finished cells: one for all cells, with the time left, and one for each cell under way, with its epoch or
    attack iteration.

    The texts stand behind the bars, where a narrow terminal cuts only their ends.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            BarColumn(bar_width=20, table_column=Column(width=20)),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(width=4)),
            TimeElapsedColumn(table_column=Column(width=7)),
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console, expand=True)
        self._all = self._progress.add_task("", total=1.0)
        self._bars: dict[str, TaskID] = {}
        self._accuracies: dict[str, str] = {}
        self._remaining = Remaining()
        self._shown: dict[str, float] = {}

    def __enter__(self) -> LiveBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, total: int) -> None:
        self._remaining.begin(total)
        self._show()

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def start_cell(self, name: str) -> None:
        if name not in self._bars:  # a cell whose machine was lost begins again
            self._bars[name] = self._progress.add_task(name, total=1.0)
        self._accuracies[name] = ""
        self._remaining.note(name, 0.0)
        self._show()

    def step(self, name: str, share: float, what: str) -> None:
        self._remaining.note(name, share)
        now = time.monotonic()
        if now - self._shown.get(name, 0.0) >= 0.1:  # the display redraws ten times a second; more updates only cost time
            self._shown[name] = now
            self._progress.update(self._bars[name], completed=share, description=f"{what}{self._accuracies[name]}  {name}")
            self._show()

    def epoch(self, name: str, epoch: Epoch, epochs: int) -> None:
        self._accuracies[name] = f", epoch {epoch.epoch}/{epochs}, test accuracy {epoch.test_accuracy:.3f}"

    def end_cell(self, name: str, text: str) -> None:
        self._remaining.end(name)
        self.message(f"{name}: {text}")
        self._progress.remove_task(self._bars.pop(name))
        self._show()

    def _show(self) -> None:
        text = f"{self._remaining.finished} of {self._remaining.total} cells, time left about {self._remaining.text()}"
        self._progress.update(self._all, completed=self._remaining.done(), description=text)


class Remaining:
    """Time left, as if the cells to come took as long as those of this run so far."""

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, total: int) -> None:
        """The work begins, of ``total`` cells."""
        self._started = time.monotonic()
        self.total, self.finished = total, 0
        self._shares: dict[str, float] = {}

    def note(self, name: str, share: float) -> None:
        """So much of a cell is done."""
        self._shares[name] = share

    def end(self, name: str) -> None:
        """A cell is done, or given up."""
        self._shares.pop(name, None)
        self.finished += 1

    def under_way(self) -> list[str]:
        """The cells that have begun and not ended."""
        return list(self._shares)

    def done(self) -> float:
        """Share of all cells that is done."""
        return (self.finished + sum(self._shares.values())) / max(self.total, 1)

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
