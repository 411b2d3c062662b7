"""Whole runs on a tiny data set, for the tests of the runner."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import torch

from benchmark.config import make_grid
from benchmark.run import runner
from benchmark.store import results

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
    """Two defenses and two seeds, whose gradients are of two images. An evaluation that does not say otherwise is of single images,
    and without identification."""
    content = {
        "datasets": [str(shapes)], "models": ["lenet"], "defenses": ["none", "noise(std=0.1)"], "seeds": [0, 1],
        "attacks": ["inverting-gradients(iterations=3)"], "training": {"epochs": 2, "batch_size": 8},
        "evaluation": {"checkpoints": [0, -1], "victims": 3, "observed": [2]}, **changes}
    return make_grid({**content, "evaluation": {"observed": ["single"], "candidates": 0, **content["evaluation"]}}, "test")


#: Four trials for each defense.
TUNING = {"step_sizes": [1e-3, 1e-2], "batch_sizes": [4, 8], "validation": 0.25}


def tuned_grid_of(shapes, **changes):
    """Of the same, each defense tuned."""
    return grid_of(shapes, **{"training": {"epochs": 2}, "tuning": TUNING, "attacks": ["inverting-gradients(iterations=1)"],
                              "evaluation": {"checkpoints": [-1], "victims": 2}, **changes})


def run(grid, out, display=None, executor=None, **arguments):
    plan = runner.prepare(grid, out, CPU, **arguments)
    return runner.run(plan, display or Silent(), executor)


def stop_by_ctrl_c(shapes, out, *options):
    """Start a long run by its command, interrupt it in the attack; its exit code, its errors, and the seconds until it was gone."""
    command = [sys.executable, "-c", "from benchmark.cli import main; main()", "run", "--dataset", str(shapes), "--model", "lenet",
               "--defense", "none", "--epochs", "1", "--victims", "4", "--observed", "single", "--candidates", "0", "--no-tuning", "--attack",
               "inverting-gradients(iterations=100000)", "--out", str(out), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if "epoch 0/1" in line:
                break
        time.sleep(1)
        interrupted = time.perf_counter()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)  # far less than the attack would take
        seconds = time.perf_counter() - interrupted
    finally:
        process.kill()
    return process.returncode, error, seconds


def comparable(run_folder):
    """Its trainings, reconstructions and identifications."""
    return [table.drop(columns="seconds") for table in results.joined(results.read_run(run_folder).cells)]


def trials(run_folder):
    """Its trials."""
    return results.read_run(run_folder).trials.to_pandas().drop(columns="seconds")
