"""Whole runs on a tiny data set, for the tests of the runner."""

from __future__ import annotations

import torch

from benchmark import results, runner
from benchmark.config import make_grid

CPU = torch.device("cpu")


class Silent:
    """A display that keeps what it is told."""

    def __init__(self):
        self.messages, self.cells, self.shares = [], [], []

    def message(self, text):
        self.messages.append(text)

    def begin(self, total):
        self.total = total

    def start_cell(self, name):
        self.cells.append(name)

    def step(self, name, share, what):
        self.shares.append(share)

    def epoch(self, name, epoch, epochs):
        pass

    def end_cell(self, name, text):
        self.messages.append(text)


def grid_of(shapes, **changes):
    content = {
        "datasets": [str(shapes)], "models": ["mlp"], "defenses": ["none", "noise(std=0.1)"], "seeds": [0, 1],
        "attacks": ["inverting-gradients(iterations=3)"], "training": {"epochs": 2, "batch_size": 8},
        "evaluation": {"checkpoints": [0, -1], "victims": 3, "batch_size": 2}, **changes}
    return make_grid(content, "test")


def run(grid, out, display=None, executor=None, **arguments):
    plan = runner.prepare(grid, out, CPU, **arguments)
    return runner.run(plan, display or Silent(), executor)


def comparable(run_folder):
    read = results.read_run(run_folder)
    return read.training.drop(columns="seconds"), read.reconstructions.drop(columns="seconds")
