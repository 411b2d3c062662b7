"""What an executor is, and what it tells of a cell."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch

from benchmark.data.datasets import Dataset
from benchmark.measure.work import Event, Todo
from benchmark.plugins import Plugin


@dataclass(frozen=True)
class Started:
    """The cell is being measured."""


@dataclass(frozen=True)
class Finished:
    """All work of the cell is done."""


@dataclass(frozen=True)
class Failed:
    """The cell raised an error, told in one line and as a traceback; nothing more is told of it."""

    error: str
    traceback: str


#: Told of a cell, by its key. What it raises ends the run.
Tell = Callable[[str, Event | Started | Finished | Failed], None]


class Executor:
    """Measures cells, and tells of them in the process that asked. Used as a context manager.

    Args:
        threads: of the CPU, for each cell; None for torch's choice.
    """

    #: Where data sets are to be loaded; None for the device on which cells are measured.
    loads_on: torch.device | None = None

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def __enter__(self) -> Executor:
        self._threads_before = torch.get_num_threads()
        if self._threads is not None:  # so that what this process records of itself holds for the cells
            torch.set_num_threads(self._threads)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads_before)

    def device(self, name: str) -> torch.device:
        """The device, of that name, on which cells are measured.

        Raises:
            InputError: it is unknown or not there.
        """
        raise NotImplementedError

    def run(self, keys: Sequence[str], work: Callable[[str], Todo], datasets: Mapping[str, Dataset], device: torch.device,
            plugins: Sequence[Plugin], tell: Tell) -> None:
        """Measure cells, or trials.

        Args:
            keys: of the cells or trials.
            work: what is left to be done of one at the time it is asked for; an InputError says that nothing can be.
            datasets: by name.
            device: where to compute.
            plugins: that were loaded in this process.
            tell: told of all that happens; the last of each cell is Finished or Failed.
        """
        raise NotImplementedError


def failed(error: Exception) -> Failed:
    """What is told of an error, which is being handled."""
    reason = " ".join(str(error).split()) or "no text"
    return Failed(f"{type(error).__name__}: {reason}", traceback.format_exc())
