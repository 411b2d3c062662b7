"""One cell after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from benchmark.data.datasets import Dataset
from benchmark.executors.base import Executor, Finished, Started, Tell, failed
from benchmark.measure import device as devices
from benchmark.measure.measuring import measure
from benchmark.measure.work import Event, Todo
from benchmark.plugins import Plugin


class Serial(Executor):
    """Measures one cell after another, in this process."""

    def device(self, name: str) -> torch.device:
        return devices.choose(name)

    def run(self, keys: Sequence[str], work: Callable[[str], Todo], datasets: Mapping[str, Dataset], device: torch.device,
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
