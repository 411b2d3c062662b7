"""A tuned run, and defenses made for one test."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest
from run_cases import run, tuned_grid_of

import defenses
from benchmark.run import runner


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
