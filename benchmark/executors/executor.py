"""Where cells are measured: one after another in this process, or many at once by Ray."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import torch

from benchmark.data.datasets import Dataset
from benchmark.errors import InputError
from benchmark.measure import device as devices
from benchmark.measure.measuring import Event, Work, measure
from benchmark.plugins import Plugin

NAMES = ("serial", "ray")
_MOST_THREADS = 1024


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


class Executor(Protocol):
    """Measures cells, and tells of them in the process that asked. Used as a context manager."""

    def __enter__(self) -> Executor: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def device(self, name: str) -> torch.device:
        """The device, of that name, on which cells are measured.

        Raises:
            InputError: it is unknown or not there.
        """

    @property
    def loads_on(self) -> torch.device | None:
        """Where data sets are to be loaded; None for the device on which cells are measured."""

    def run(self, keys: Sequence[str], work: Callable[[str], Work], datasets: Mapping[str, Dataset], device: torch.device,
            plugins: Sequence[Plugin], tell: Tell) -> None:
        """Measure cells.

        Args:
            keys: of the cells.
            work: what is left to be done of a cell at the time it is asked for.
            datasets: by name.
            device: where to compute.
            plugins: that were loaded in this process.
            tell: told of all that happens; the last of each cell is Finished or Failed.
        """


class Serial:
    """One cell after another, in this process.

    Args:
        threads: of the CPU; None for torch's choice.
    """

    loads_on: torch.device | None = None

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def __enter__(self) -> Serial:
        if self._threads is not None:
            self._before = torch.get_num_threads()
            torch.set_num_threads(self._threads)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._before)

    def device(self, name: str) -> torch.device:
        return devices.choose(name)

    def run(self, keys: Sequence[str], work: Callable[[str], Work], datasets: Mapping[str, Dataset], device: torch.device,
            plugins: Sequence[Plugin], tell: Tell) -> None:
        for key in keys:
            tell(key, Started())
            events = _Raising(key, tell)
            try:
                todo = work(key)
                measure(todo, datasets[todo.spec.dataset], events)
            except Exception as error:  # whatever a defense, model or attack raises, the other cells go on
                if events.raised is error:
                    raise
                tell(key, failed(error))
            else:
                tell(key, Finished())


class _Raising:
    """Passes events on, and remembers what that raised, which is no failure of the cell."""

    def __init__(self, key: str, tell: Tell) -> None:
        self._key, self._tell = key, tell
        self.raised: Exception | None = None

    def __call__(self, event: Event) -> None:
        try:
            self._tell(self._key, event)
        except Exception as error:
            self.raised = error
            raise


def failed(error: Exception) -> Failed:
    """What is told of an error, which is being handled."""
    reason = " ".join(str(error).split()) or "no text"
    return Failed(f"{type(error).__name__}: {reason}", traceback.format_exc())


def create(name: str, *, threads: int | None = None, ray_address: str | None = None, gpus_per_cell: float | None = None
           ) -> Executor:
    """The executor of that name.

    Args:
        name: ``serial`` or ``ray``.
        threads: CPU threads of each cell, on which rounding depends; None for torch's choice.
        ray_address: of a Ray cluster, or ``auto`` for the one of this machine; None to start one on this machine.
        gpus_per_cell: share of a GPU, or number of GPUs, that Ray keeps for each cell; None for one.

    Raises:
        InputError: an argument is not acceptable, or Ray is not installed.
    """
    if name not in NAMES:
        raise InputError(f"unknown executor {name!r}; expected {' or '.join(NAMES)}")
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise InputError(f"--threads must be 1 to {_MOST_THREADS}, got {threads}")
    if name == "serial":
        if ray_address is not None or gpus_per_cell is not None:
            raise InputError("--ray-address and --gpus-per-cell are for --executor ray")
        return Serial(threads)
    if gpus_per_cell is not None and not (0 < gpus_per_cell <= 1 or (gpus_per_cell > 1 and gpus_per_cell.is_integer())):
        raise InputError(f"--gpus-per-cell must be a share of a GPU, in (0, 1], or a whole number, got {gpus_per_cell}")
    try:
        from benchmark.executors.ray_executor import Ray
    except ImportError as error:
        raise InputError('--executor ray needs Ray; install it with: pip install "leakboard[ray]"') from error
    return Ray(ray_address, threads=threads, gpus_per_cell=gpus_per_cell)
