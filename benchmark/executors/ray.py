"""The parts of cells as tasks of Ray, on this machine or a cluster. Results stream to this process, which alone writes."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any

import numpy as np
import ray
import torch

from attacks.engine import memory
from benchmark import plugins
from benchmark.data.datasets import Dataset
from benchmark.data.loaders import LabelledImages
from benchmark.errors import InputError
from benchmark.executors.base import Executor, Failed, Finished, Started, Tell, failed
from benchmark.measure import device as devices
from benchmark.measure.environment import versions
from benchmark.measure.measuring import measure
from benchmark.measure.work import Advanced, Event, Part, Todo, Work
from benchmark.plugins import Plugin
from defenses.support.upload import upload

#: Times that a cell is begun again after the machine or process that measured it was lost.
_RETRIES = 3
#: Seconds between two reports of a cell's progress.
_REPORT_EVERY = 1.0
#: Seconds to wait for news before new machines are looked for.
_PATIENCE = 5.0


@dataclass(frozen=True)
class _Settings:
    """How a task computes."""

    device: str
    gpus: float
    threads: int
    versions: dict[str, Any]
    plugins: tuple[Plugin, ...]


class Ray(Executor):
    """Measures as many trials, or parts of cells (trainings, identifications, attacks), at once as the cluster has place for. Each
    takes a GPU (or a share), or on CPUs as many as it has threads. One whose machine is lost is begun again elsewhere.

    Args:
        address: of a cluster, ``auto`` for the one of this machine; None to start one, which ends with this process.
        threads: of each cell; None for as many as torch would use in this process.
        gpus_per_cell: a share of a GPU, or a number; None for one.
    """

    loads_on: torch.device | None = torch.device("cpu")

    def __init__(self, address: str | None, *, threads: int | None = None, gpus_per_cell: float | None = None) -> None:
        self._address, self._gpus = address, 1.0 if gpus_per_cell is None else gpus_per_cell
        self._of_each = torch.get_num_threads() if threads is None else threads
        super().__init__(self._of_each)

    def __enter__(self) -> Executor:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            _knock(self._address)
            # None would join whatever cluster of this machine was there, whoever's it is.
            ray.init(address=self._address or "local", include_dashboard=None if self._address else False, log_to_driver=False,
                     logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            place = f"the Ray cluster {self._address}" if self._address else "Ray on this machine"
            raise InputError(f"cannot reach {place}: {error}") from error
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        ray.shutdown()

    def device(self, name: str) -> torch.device:
        """``auto`` is a GPU where the cluster has one; the process that asks needs none."""
        there = ray.cluster_resources().get("GPU", 0) > 0
        if name == "auto":
            name = "cuda" if there else "cpu"
        if name == "cuda" and not there:
            raise InputError("device 'cuda' was asked for, but no machine of the Ray cluster has a GPU; use --device cpu")
        if name not in ("cpu", "cuda"):
            raise InputError(f"device {name!r} cannot be chosen with --executor ray, which gives each cell one that is free; "
                             "expected auto, cpu or cuda")
        return torch.device(name)

    def run(self, keys: Sequence[str], work: Callable[[str], Todo], datasets: Mapping[str, Dataset], device: torch.device,
            plugins: Sequence[Plugin], tell: Tell) -> None:
        gpu = device.type == "cuda"
        options = {"num_cpus": 1 if gpu else self._of_each, "num_gpus": self._gpus if gpu else 0}
        for kind, option, hint in (("CPU", "num_cpus", "--threads"), ("GPU", "num_gpus", "--gpus-per-cell")):
            if all(node["Resources"].get(kind, 0) < options[option] for node in ray.nodes() if node["Alive"]):
                raise InputError(f"no machine of the Ray cluster has {options[option]:g} {kind}s, which a cell takes; "
                                 f"give fewer {hint}")
        settings = _Settings(device.type, self._gpus, self._of_each, versions(), tuple(plugins))
        # Once for all cells: each machine takes its copy from the object store.
        stored = {name: ray.put(_packed(dataset)) for name, dataset in datasets.items()}
        task = (_ON_A_GPU if gpu else _ON_CPUS).options(**options, max_retries=0)
        _Tasks(lambda todo: task.remote(todo, stored[todo.spec.dataset], settings), options, work, tell).run(keys)


def _knock(address: str | None) -> None:
    """Raise ConnectionError or OSError where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


class _Cell:
    """A cell or trial under way: a training is one task, and then each identification and each attack."""

    def __init__(self, todo: Todo) -> None:
        self.waiting: deque[Todo] = deque()
        self.running = 0
        self._parts = todo.count
        self._done = 0
        self._shares: dict[Any, float] = {}
        self.add(todo)

    def add(self, todo: Todo) -> None:
        """Wait for what can be begun now."""
        self.waiting += todo.parts()

    def advance(self, stream: Any, share: float) -> float:
        """A task has come so far; how much of the cell is done."""
        self._shares[stream] = share
        return (self._done + sum(self._shares.values())) / max(self._parts, 1)

    def end(self, stream: Any, *, done: bool) -> None:
        """A task is over; if not done, it is to begin again."""
        self._shares.pop(stream, None)
        self._done += done
        self.running -= 1


class _Tasks:
    """The cells that wait and those that are under way, of which trainings, identifications and single attacks are given to workers
    by themselves."""

    def __init__(self, submit: Callable[[Todo], Any], options: dict[str, float], work: Callable[[str], Todo], tell: Tell) -> None:
        self._submit, self._options, self._work, self._tell = submit, options, work, tell
        self._cells: dict[str, _Cell] = {}
        self._running: dict[Any, tuple[str, Todo]] = {}
        self._arrived: set[Any] = set()
        self._lost: Counter[str] = Counter()

    def run(self, keys: Sequence[str]) -> None:
        waiting = deque(keys)
        try:
            while waiting or self._cells:
                while len(self._running) < self._places() and self._begin_one(waiting):
                    pass
                if not self._running:
                    continue
                ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_PATIENCE)
                for stream in ready:
                    self._news(stream)
        finally:
            for stream in self._running:
                ray.cancel(stream, force=True)

    def _places(self) -> int:
        """How many tasks the cluster, as it is now, has place for; one more waits in its queue, so that no machine waits for us."""
        free = ray.cluster_resources()
        places = [int(free.get(name, 0) // self._options[option]) for name, option in (("CPU", "num_cpus"), ("GPU", "num_gpus"))
                  if self._options[option]]
        return max(1, min(places)) + 1

    def _begin_one(self, waiting: deque[str]) -> bool:
        """Submit the next task, of a cell that is under way rather than of another one; whether there was one."""
        for key, cell in self._cells.items():
            if cell.waiting:
                part = cell.waiting.popleft()
                cell.running += 1
                self._running[self._submit(part)] = key, part
                return True
        if not waiting:
            return False
        key = waiting.popleft()
        todo = self._asked(key)
        if todo is not None:
            self._tell(key, Started())
            self._cells[key] = _Cell(todo)
            self._finish_if_over(key)
        return True

    def _asked(self, key: str) -> Todo | None:
        try:
            return self._work(key)
        except InputError as error:  # what was saved before is damaged now, or tuning came to nothing
            self._fail(key, failed(error))
            return None

    def _news(self, stream: Any) -> None:
        """Pass on the next event of a task, or begin it again where its process was lost."""
        key, part = self._running[stream]
        cell = self._cells[key]
        try:
            event = ray.get(next(stream))
        except StopIteration:
            self._end(stream, done=True)
            return
        except ray.exceptions.RayError as error:
            # A part that has arrived whole is done, whatever became of its process afterwards.
            done = stream in self._arrived
            self._end(stream, done=done)
            if isinstance(error, ray.exceptions.RayTaskError):  # it could not even begin
                self._fail(key, failed(error))
            elif not done:
                self._begin_again(key, part, error)
            return
        if isinstance(event, Failed):
            self._fail(key, event)
        elif isinstance(event, Finished):
            self._end(stream, done=True)
        elif not isinstance(event, Started):  # the cell has begun with its first task
            if isinstance(event, Part):
                self._arrived.add(stream)
            self._tell(key, Advanced(cell.advance(stream, event.share), event.what) if isinstance(event, Advanced) else event)

    def _begin_again(self, key: str, part: Todo, error: Exception) -> None:
        self._lost[key] += 1
        if self._lost[key] <= _RETRIES:
            self._cells[key].waiting.appendleft(part)
            return
        lines = str(error).splitlines() or [type(error).__name__]
        self._fail(key, Failed(f"the process of the cell was lost {self._lost[key]} times, last with: {lines[0]}", str(error)))

    def _end(self, stream: Any, *, done: bool) -> None:
        key, part = self._running.pop(stream)
        cell = self._cells[key]
        cell.end(stream, done=done)
        if not done:
            return
        if isinstance(part, Work) and part.weights is None and (todo := self._asked(key)) is not None:
            cell.add(todo)  # trained: the rest can begin
        self._finish_if_over(key)

    def _finish_if_over(self, key: str) -> None:
        cell = self._cells.get(key)
        if cell is not None and not cell.running and not cell.waiting:
            del self._cells[key]
            self._tell(key, Finished())

    def _fail(self, key: str, event: Failed) -> None:
        """A cell fails as a whole, once; what else of it is under way ends."""
        self._cells.pop(key, None)
        for stream in [stream for stream, (of, _) in self._running.items() if of == key]:
            ray.cancel(stream, force=True)
            del self._running[stream]
        self._tell(key, event)


def _measured(work: Todo, packed: tuple[Any, ...], settings: _Settings) -> Iterator[Event | Started | Finished | Failed]:
    """The events of a cell, in a process of Ray."""
    yield Started()
    try:
        there = versions()
        if there != settings.versions:
            raise RuntimeError(f"the machine of this cell has {there}, the one that writes {settings.versions}; install the same")
        for plugin in settings.plugins:
            plugins.load(plugin)
        device = devices.choose(settings.device)
        memory.allow(min(1.0, settings.gpus), device)
        dataset = _unpacked(packed, device)
    except Exception as error:
        yield failed(error)
        return
    news: SimpleQueue[Event | Finished | Failed] = SimpleQueue()
    last = 0.0

    def tell(event: Event) -> None:
        nonlocal last
        if isinstance(event, Advanced):
            if time.monotonic() - last < _REPORT_EVERY:
                return
            last = time.monotonic()
        news.put(event)

    def compute() -> None:
        torch.set_num_threads(settings.threads)  # holds for the thread that calls it
        try:
            measure(work, dataset, tell)
        except Exception as error:
            news.put(failed(error))
        else:
            news.put(Finished())

    # A thread of its own, since an event can come from deep within an attack and only this function can yield it.
    Thread(target=compute, daemon=True).start()
    while True:
        event = news.get()
        yield event
        if isinstance(event, (Finished, Failed)):
            return


_ON_CPUS = ray.remote(num_returns="streaming")(_measured)
#: A process works on one task only: it would keep its memory of the GPU, and the GPU that it saw first. Ray sees to that by itself
#: only where the number of GPUs stands here, and not in ``options``.
_ON_A_GPU = ray.remote(num_returns="streaming", max_calls=1)(_measured)


def _packed(dataset: Dataset) -> tuple[Any, ...]:
    """A data set as arrays, which tasks on one machine share in memory."""
    splits = [[tensor.numpy() for tensor in split.tensors()] for split in (dataset.train, dataset.test)]
    return dataset.name, dataset.classes, dataset.fingerprint, splits


_unpacked_before: dict[tuple[str, str], Dataset] = {}


def _unpacked(packed: tuple[Any, ...], device: torch.device) -> Dataset:
    """The data set on the device; a process keeps the last one, which the next cell mostly needs too."""
    name, classes, fingerprint, splits = packed
    if (name, fingerprint) not in _unpacked_before:
        _unpacked_before.clear()
        train, test = (LabelledImages(*(upload(_tensor(array), device) for array in split)) for split in splits)
        _unpacked_before[name, fingerprint] = Dataset(name, classes, train, test, fingerprint)
    return _unpacked_before[name, fingerprint]


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Without a copy; the array lies in shared memory that cannot be written to, and nobody writes into a data set."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
