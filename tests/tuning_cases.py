"""Tuned runs on a tiny data set, and defenses made for one test."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest
from run_cases import TUNING, run, tuned_grid_of

import defenses
from benchmark.measure import measuring
from benchmark.run import runner

CHOICE = ["optimizer", "learning_rate", "batch_size"]


def no_training(monkeypatch):
    monkeypatch.setattr(measuring, "train", lambda *arguments, **others: pytest.fail("trained again"))


def chosen_by_hand(table):
    """Of each defense, of the highest accuracy after the last epoch the first in the order of the grid."""
    last = table[table["epoch"] == table["epoch"].max()]
    order = [("adam", step, batch) for step in TUNING["step_sizes"] for batch in TUNING["batch_sizes"]]
    found = {}
    for defense, of in last.groupby("defense"):
        accuracy = {tuple(row[name] for name in CHOICE): row["validation_accuracy"] for _, row in of.iterrows()}
        assert len(accuracy) == len(of) == 4
        found[defense] = next(choice for choice in order if accuracy[choice] == max(accuracy.values()))
    return found


@pytest.fixture(scope="module")
def tuned_run(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    assert run(tuned_grid_of(shapes), folder) == runner.Outcome(kept=0, finished=4, failed=0)
    return folder


@pytest.fixture
def finished(tuned_run, tmp_path):
    return shutil.copytree(tuned_run, tmp_path / "finished")


@pytest.fixture
def defense_of():
    """Registers a defense by its name and what it does to gradients, for one test."""
    names = []

    def register(name, alter):
        @dataclass(frozen=True)
        class Made(defenses.Defense):
            def transform_gradients(self, gradients, step):
                return alter(gradients, step)

        Made.name = name
        names.append(name)
        defenses.registry.register(Made)

    yield register
    for name in names:
        del defenses.registry._classes[name]
