"""Trials are parts of a run: kept, set aside, taken by other runs, planned, and told of where they fail."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from run_cases import CPU, TUNING, Silent, comparable, run, trials, tuned_grid_of
from tuning_cases import CHOICE, chosen_by_hand

import defenses
from benchmark import executors, plugins
from benchmark.errors import InputError
from benchmark.executors import serial
from benchmark.measure.work import TrialWork, Work
from benchmark.run import planning, reproducing, runner
from benchmark.specification import TrialSpec
from benchmark.store import results
from benchmark.store.trials import tried


class Stopped(BaseException):
    pass


def test_a_run_that_stops_within_its_tuning_repeats_no_finished_trial(shapes, tuned_run, tmp_path, monkeypatch):
    measure, begun = serial.measure, []

    def stop_at_fourth(work, dataset, tell):
        begun.append(work.spec)
        if len(begun) == 4:
            raise Stopped
        measure(work, dataset, tell)

    monkeypatch.setattr(serial, "measure", stop_at_fourth)
    with pytest.raises(Stopped):
        run(tuned_grid_of(shapes), tmp_path / "run")
    assert len(list((tmp_path / "run" / "trials").iterdir())) == 3 and not list((tmp_path / "run" / "cells").iterdir())
    (tmp_path / "run" / "trials" / ".half-written.1").mkdir()
    display = Silent()
    assert run(tuned_grid_of(shapes), tmp_path / "run", display) == runner.Outcome(kept=0, finished=4, failed=0)
    tried_specs = [spec for spec in begun if isinstance(spec, TrialSpec)]
    assert len(tried_specs) == 9 and len(set(tried_specs)) == 8 and tried_specs.count(begun[3]) == 2
    assert display.messages[0].startswith("tuning: 5 trials") and not list((tmp_path / "run" / "trials").glob(".*"))
    same(tmp_path / "run", tuned_run)


def same(first, second):
    pd.testing.assert_frame_equal(trials(first), trials(second))
    for one, other in zip(comparable(first), comparable(second), strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("name", ["trial.parquet", "part.json"])
@pytest.mark.parametrize("harm", [lambda content: content[: len(content) // 2], lambda content: b"", None], ids=["cut off", "empty", "gone"])
def test_a_damaged_trial_is_set_aside_and_tried_again(shapes, tuned_run, finished, name, harm, monkeypatch):
    file = min(finished.glob(f"trials/*/{name}"))
    file.unlink() if harm is None else file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(InputError, match=file.name):
        results.read_run(finished)
    begun, measure = [], serial.measure
    monkeypatch.setattr(serial, "measure", lambda work, *arguments: (begun.append(work), measure(work, *arguments))[1])
    display = Silent()
    assert run(tuned_grid_of(shapes), finished, display) == runner.Outcome(kept=4, finished=0, failed=0)
    assert str(file.parent) in display.messages[0] and f"was moved to {finished / 'damaged' / file.parent.name}" in display.messages[0]
    assert (finished / "damaged" / file.parent.name).is_dir() and len(begun) == 1 and isinstance(begun[0], TrialWork)
    same(finished, tuned_run)


def test_trials_of_another_run_are_taken_where_they_are_whole(shapes, tuned_run, finished, tmp_path, monkeypatch):
    damaged = min(finished.glob("trials/*/trial.parquet"))
    damaged.write_bytes(b"")
    larger = tuned_grid_of(shapes, seeds=[0, 1, 2], attacks=[])
    begun, measure = [], serial.measure
    monkeypatch.setattr(serial, "measure", lambda work, *arguments: (begun.append(work), measure(work, *arguments))[1])
    display = Silent()
    assert run(larger, tmp_path / "run", display, models_from=[finished]) == runner.Outcome(kept=4, finished=2, failed=0)
    assert "tuning: 1 trials" in display.messages[1] and not any("was moved" in message for message in display.messages)
    of_trials = [work for work in begun if isinstance(work, TrialWork)]
    assert len(of_trials) == 1 and sorted(work.spec.seed for work in begun if isinstance(work, Work) and work.weights is None) == [2, 2]
    pd.testing.assert_frame_equal(trials(tmp_path / "run"), trials(tuned_run))
    assert (damaged.parent / "part.json").is_file()  # the other run is left as it is


def plan_of(grid, folder):
    found = runner.identify(grid, CPU)
    return planning.planned(found, folder)


def test_trials_are_planned(shapes, finished, tmp_path, defense_of):
    grid = tuned_grid_of(shapes)
    lines = planning.describe(plan_of(grid, tmp_path / "nowhere")).splitlines()
    assert lines[0] == "to do         unknown  shapes / lenet / none / trial of adam, step size 0.001, batch size 4" and len(lines) == 8 + 4 + 1
    assert lines[-1] == "0 of 8 trials and 0 of 4 cells done; time left unknown until one like it is finished"
    assert planning.describe(plan_of(grid, finished)).splitlines()[-1] == "8 of 8 trials and 4 of 4 cells done; nothing left to do"
    for file in finished.glob("trials/*/part.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": 60.0}))
    shutil.rmtree(file.parent)
    planned = plan_of(grid, finished)
    assert [(cell.state, cell.seconds) for cell in planned if cell.state != "done"] == [("to do", 60.0)]
    assert planning.describe(planned).splitlines()[-1] == "7 of 8 trials and 4 of 4 cells done; time left about 1:00, one after another"
    defense_of("broken", lambda gradients, step: 1 / 0)
    grid = tuned_grid_of(shapes, defenses=["broken"], seeds=[0])
    run(grid, tmp_path / "broken")
    assert {cell.state for cell in plan_of(grid, tmp_path / "broken")} == {"failed"}


def test_a_defense_whose_trials_all_diverge_fails_with_all_losses_and_stops_no_other(shapes, tmp_path, defense_of):
    defense_of("exploding", lambda gradients, step: {name: g * torch.inf for name, g in gradients.items()})
    display = Silent()
    assert run(tuned_grid_of(shapes, defenses=["exploding", "none"]), tmp_path / "run", display) == runner.Outcome(kept=0, finished=2, failed=2)
    read = results.read_run(tmp_path / "run")
    reason = "; ".join(f"trial of adam, step size {step:g}, batch size {batch}: loss nan" for step in (1e-3, 1e-2) for batch in (4, 8))
    assert {failure["error"] for failure in read.failures.values()} == {f"NotTuned: all 4 trials diverged: {reason}"}
    assert {failure["seed"] for failure in read.failures.values()} == {0, 1}
    diverged = {one.spec.defense: one.diverged for one in tried(read.trials)}
    assert diverged == {"exploding": True, "none": False} and len(tried(read.trials)) == 8
    assert set(comparable(tmp_path / "run")[0]["defense"]) == {"none"}


def test_of_trials_of_which_some_diverge_one_that_does_not_is_taken(shapes, tmp_path):
    grid = tuned_grid_of(shapes, defenses=["none"], seeds=[0], attacks=[], tuning={**TUNING, "step_sizes": [1e38, 1e-6], "batch_sizes": [4]})
    assert run(grid, tmp_path / "run").finished == 1
    assert {one.spec.learning_rate: one.diverged for one in tried(results.read_run(tmp_path / "run").trials)} == {1e38: True, 1e-6: False}
    assert set(comparable(tmp_path / "run")[0]["learning_rate"]) == {1e-6}
    grid = tuned_grid_of(shapes, seeds=[0], attacks=[], tuning={**TUNING, "step_sizes": [1e38], "batch_sizes": [4]})
    assert run(grid, tmp_path / "none").failed == 2


def test_a_trial_that_raises_fails_the_cells_of_its_defense_with_its_error(shapes, tmp_path, defense_of):
    def unlucky(gradients, step):
        if len(step.batch.images) == 8:
            raise RuntimeError("out of\nluck")
        return gradients

    defense_of("unlucky", unlucky)
    assert run(tuned_grid_of(shapes, defenses=["unlucky", "none"]), tmp_path / "run") == runner.Outcome(kept=0, finished=2, failed=2)
    read = results.read_run(tmp_path / "run")
    errors = [failure["error"] for failure in read.failures.values()]
    assert errors == ["RuntimeError: out of luck"] * 2 + [
        "NotTuned: the trial of adam, step size 0.001, batch size 8 failed: RuntimeError: out of luck"] * 2
    assert len(tried(read.trials)) == 6
    # They are tried again, and the records go once they succeed.
    defenses.registry._classes["unlucky"].transform_gradients = lambda self, gradients, step: gradients
    assert run(tuned_grid_of(shapes, defenses=["unlucky", "none"]), tmp_path / "run") == runner.Outcome(kept=2, finished=2, failed=0)
    assert results.read_run(tmp_path / "run").failures == {} and len(tried(results.read_run(tmp_path / "run").trials)) == 8


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from defenses import Defense

@dataclass(frozen=True)
class Scaled(Defense):
    name: ClassVar[str] = "scaled"
    summary: ClassVar[str] = "a multiple of the gradient"
    factor: float = 0.5
    shift: float = 0.0

    def transform_gradients(self, gradients, step):
        return {name: self.factor * g + self.shift for name, g in gradients.items()}
"""


def test_a_defense_of_a_plugin_is_tuned_like_all_others_at_each_strength(shapes, tmp_path, clean_registry):
    (tmp_path / "mine.py").write_text(PLUGIN)
    loaded = plugins.read(tmp_path / "mine.py")
    grid = tuned_grid_of(shapes, defenses=["none", "scaled(factor=[0.25, 1.0])", "scaled(factor=1.0)"], seeds=[0])
    assert run(grid, tmp_path / "run", plugins=[loaded]) == runner.Outcome(kept=0, finished=3, failed=0)
    read = results.read_run(tmp_path / "run")
    assert read.manifest["families"] == [
        {"name": "none", "parameter": None, "defenses": ["none"]},
        {"name": "scaled(factor)", "parameter": "factor", "defenses": ["scaled(factor=0.25)", "scaled(factor=1.0)"]}]
    table, choices = trials(tmp_path / "run"), chosen_by_hand(trials(tmp_path / "run"))
    assert table.groupby("defense").size().to_dict() == {"none": 12, "scaled(factor=0.25)": 12, "scaled(factor=1.0)": 12}
    assert json.loads(table.loc[table["defense"] == "scaled(factor=0.25)", "defense_params"].iloc[0]) == {"factor": 0.25, "shift": 0.0}
    of_trials = [table[table["defense"] == defense].drop(columns=["defense", "defense_params"]) for defense in ("none", "scaled(factor=1.0)")]
    assert np.array_equal(of_trials[0]["train_loss"], of_trials[1]["train_loss"], equal_nan=True)  # which does nothing
    training = comparable(tmp_path / "run")[0]
    assert {defense: tuple(rows[CHOICE].iloc[0]) for defense, rows in training.groupby("defense")} == choices
    (tmp_path / "mine.py").write_text(PLUGIN.replace("self.factor * g", "g * self.factor"))
    clean_registry()
    changed = runner.identify(grid, CPU, plugins=[plugins.read(tmp_path / "mine.py")]).trials
    kept = changed.keys() & read.manifest["trials"].keys()
    assert {changed[key].defense for key in kept} == {"none"} and len(kept) == 4


def test_cells_are_measured_again_by_what_was_chosen(tuned_run, monkeypatch):
    sample = reproducing.draw(tuned_run, 4, CPU, seed=0)
    assert all(comparison.identical for comparison in reproducing.reproduce(sample, Silent(), executors.Serial()))
