"""Seconds are those of the device, not of the calls that ask it; with a stand-in for a GPU."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import benchmark.measure
from benchmark.measure import clock, evaluation

GPU = torch.device("cuda", 1)


@pytest.fixture
def queue(monkeypatch):
    """A GPU whose queue is done when it is waited for, which moves the clock."""
    state = SimpleNamespace(now=0.0, queued=0.0)

    def wait(device):
        assert device == GPU
        state.now, state.queued = state.now + state.queued, 0.0

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(time, "perf_counter", lambda: state.now)
    return state


def test_a_clock_waits_for_the_device(queue):
    queue.queued = 5.0
    assert clock.now(torch.device("cpu")) == 0.0
    assert clock.now(GPU) == 5.0 == clock.now(GPU)


class Observed:
    """One victim on the GPU."""

    device, blind = GPU, lambda self: None

    def __len__(self):
        return 1


def test_an_attack_is_charged_for_what_it_queued_alone(queue, monkeypatch):
    class Queued:
        label, informed_by, obstacle, parameters = "queued", lambda *_: False, lambda *_: None, dict

        def reconstruct(self, *arguments, **others):
            queue.queued += 3.0

    monkeypatch.setattr(evaluation, "_scores", lambda *arguments: [0.0])
    monkeypatch.setattr(evaluation, "_compared", lambda *arguments: ([{"victim": 0}], None))
    observation = Observed()
    monkeypatch.setattr(evaluation, "attackers", lambda *arguments, **others: {"both": observation})
    queue.queued = 100.0  # of what was done before
    rebuilt = evaluation.rebuild(Queued(), observation, SimpleNamespace(numbers=(0,)), 0)
    assert [row["seconds"] for row in rebuilt.rows] == [3.0]


def test_all_that_is_measured_is_measured_so():
    for path in Path(benchmark.measure.__file__).parent.glob("*.py"):
        read = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert path.name == "clock.py" or not read & {"perf_counter", "monotonic", "process_time"}, path
