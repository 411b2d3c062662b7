"""Every defense is trained by the best of some trials, which see nothing of the test images."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from run_cases import CPU, TUNING, Silent, comparable, grid_of, run, trials, tuned_grid_of

import defenses
from benchmark import executors, plugins
from benchmark.config import Training
from benchmark.data import datasets
from benchmark.data.loaders import LabelledImages
from benchmark.errors import InputError
from benchmark.executors import serial
from benchmark.measure import measuring
from benchmark.measure.work import TrialWork, Work
from benchmark.run import planning, reproducing, runner
from benchmark.specification import TrialSpec
from benchmark.store import results
from benchmark.store.tables import TRIALS
from benchmark.store.trials import Tried, best, tried

CHOICE = ["optimizer", "learning_rate", "batch_size"]


def no_training(monkeypatch):
    monkeypatch.setattr(measuring, "train", lambda *arguments, **others: pytest.fail("trained again"))


@pytest.fixture(scope="module")
def made(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    assert run(tuned_grid_of(shapes), folder) == runner.Outcome(kept=0, finished=4, failed=0)
    return folder


@pytest.fixture
def finished(made, tmp_path):
    return shutil.copytree(made, tmp_path / "finished")


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


def rewrite(folder, outcomes):
    """Let the trials of a run have come to validation accuracies after each epoch, by defense, step size and batch size."""
    for file in folder.glob("trials/*/trial.parquet"):
        rows = pq.read_table(file).to_pylist()
        accuracies = outcomes[rows[0]["defense"]][rows[0]["learning_rate"], rows[0]["batch_size"]]
        for row, accuracy in zip(rows, accuracies, strict=True):
            row["validation_accuracy"] = accuracy
        pq.write_table(pa.Table.from_pylist(rows, schema=TRIALS), file)


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


def test_what_is_written_of_trials(made, shapes):
    read = results.read_run(made)
    table = read.trials.to_pandas()
    assert len(table) == 2 * 4 * 3 and set(table["epoch"]) == {0, 1, 2}
    assert table.groupby(["defense", *CHOICE]).size().to_list() == [3] * 8
    assert table["validation_accuracy"].between(0, 1).all() and (table["train_loss"].isna() == (table["epoch"] == 0)).all()
    assert read.manifest["trials"] == {key: spec.model_dump() for key, spec in runner.identify(tuned_grid_of(shapes), CPU).trials.items()}
    assert len(read.manifest["trials"]) == 8 and read.failures == {}
    assert read.manifest["grid"]["tuning"] == {**TUNING, "optimizers": ["adam"], "epochs": None}


def test_all_seeds_train_by_the_choice_on_all_images(made):
    training = results.joined(results.read_run(made).cells)[0]
    choices = chosen_by_hand(trials(made))
    for (defense, _), rows in training.groupby(["defense", "seed"]):
        assert {tuple(row) for row in rows[CHOICE].itertuples(index=False)} == {choices[defense]}


def test_without_tuning_there_are_no_trials(shapes, tmp_path):
    run(grid_of(shapes, defenses=["none"], seeds=[0], attacks=[]), tmp_path / "run")
    read = results.read_run(tmp_path / "run")
    assert read.trials.num_rows == 0 and read.manifest["trials"] == {} and read.manifest["grid"]["tuning"] is None
    assert {tuple(row) for row in results.joined(read.cells)[0][CHOICE].itertuples(index=False)} == {("adam", 1e-3, 8)}


@pytest.mark.parametrize(("outcomes", "expected"), [
    ([0.5, 0.7, 0.6, 0.2], 1), ([0.5, 0.7, 0.7, 0.7], 1), ([0.5, math.nan, 0.7, 0.7], 2), ([0.5] * 4, 0), ([math.nan] * 4, None),
    ([math.inf, 0.1, -math.inf, math.nan], 1), ([], None)])
def test_the_first_of_the_best_that_did_not_diverge(outcomes, expected):
    """An outcome that is no number is the loss of one that diverged, whatever its accuracy."""
    made = [Tried(TrialSpec(dataset="d", model="m", defense="none", optimizer="adam", learning_rate=1.0 + place, batch_size=1),
                  1.0 if not math.isfinite(outcome) else outcome, outcome if not math.isfinite(outcome) else 1.0)
            for place, outcome in enumerate(outcomes)]
    assert best(made) == (None if expected is None else made[expected])


def test_what_counts_is_the_last_epoch(shapes, finished):
    """None of the highest accuracy after an earlier one; of equal ones the first."""
    rewrite(finished, {"none": {(1e-3, 4): (0.9, 0.9, 0.3), (1e-3, 8): (0, 0, 0.5), (1e-2, 4): (0, 0.8, 0.7), (1e-2, 8): (0, 0, 0.7)},
                       "noise(std=0.1)": {(1e-3, 4): (0, 1, 0.1), (1e-3, 8): (0, 0, 0.2), (1e-2, 4): (0, 1, 0.1), (1e-2, 8): (0, 0, 0.2)}})
    shutil.rmtree(finished / "cells")
    assert run(tuned_grid_of(shapes), finished).finished == 4
    training = comparable(finished)[0]
    assert {defense: set(rows[CHOICE].itertuples(index=False, name=None)) for defense, rows in training.groupby("defense")} == {
        "none": {("adam", 1e-2, 4)}, "noise(std=0.1)": {("adam", 1e-3, 8)}}
    table = pa.concat_tables([results.read_run(finished).trials.slice(2), results.read_run(finished).trials.slice(0, 2)])
    assert tried(table)[-1].spec != tried(table)[0].spec and {one.validation_accuracy for one in tried(table)} == {0.3, 0.5, 0.7, 0.1, 0.2}


def test_gradients_as_trained_are_of_the_batch_that_was_chosen(shapes, finished):
    outcomes = {(1e-3, 4): (0, 0, 0.3), (1e-3, 8): (0, 0, 0.5), (1e-2, 4): (0, 0, 0.7), (1e-2, 8): (0, 0, 0.1)}
    rewrite(finished, {"none": outcomes, "noise(std=0.1)": {**outcomes, (1e-2, 8): (0, 0, 0.8)}})
    shutil.rmtree(finished / "cells")
    grid = tuned_grid_of(shapes, evaluation={"checkpoints": [-1], "victims": 2, "observed": ["as-trained", "single", 3], "candidates": 4})
    assert run(grid, finished).finished == 4
    _, rebuilt, identified = comparable(finished)
    for table in (rebuilt, identified):
        assert set(table[["defense", "observed", "batch_size"]].itertuples(index=False, name=None)) == {
            (defense, observed, size) for defense, trained in (("none", 4), ("noise(std=0.1)", 8))
            for observed, size in (("as-trained", trained), ("single", 1), ("3", 3))}
    assert rebuilt.groupby(["defense", "seed", "observed", "victim"]).size().to_dict() == {
        (defense, seed, observed, victim): size for defense, trained in (("none", 4), ("noise(std=0.1)", 8)) for seed in (0, 1)
        for observed, size in (("as-trained", trained), ("single", 1), ("3", 3)) for victim in (0, 1)}


def test_gradients_as_trained_stay_those_of_the_training_whatever_trials_come_to_later(shapes, finished, monkeypatch):
    before = comparable(finished)[0].groupby("defense")["batch_size"].first().to_dict()
    rewrite(finished, {defense: {(step, batch): (0, 0, 0.5 if batch == trained else 0.9) for step in (1e-3, 1e-2) for batch in (4, 8)}
                       for defense, trained in before.items()})
    no_training(monkeypatch)
    assert run(tuned_grid_of(shapes, evaluation={"checkpoints": [-1], "victims": 2, "observed": ["single", "as-trained"]}), finished).finished == 4
    rebuilt = comparable(finished)[1]
    assert rebuilt[rebuilt["observed"] == "as-trained"].groupby("defense")["batch_size"].first().to_dict() == before


class Secret:
    """Test images that nobody may look at."""

    def __getattribute__(self, name):
        raise AssertionError(f"a trial looked at the {name} of the test images")

    def __len__(self):
        raise AssertionError("a trial counted the test images")


@pytest.mark.parametrize("defense", ["none", "dp-sgd(accountant='rdp')", "precode+noise"])
def test_a_trial_never_sees_test_images(shapes, defense):
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    spec = TrialSpec(dataset=dataset.name, model="lenet", defense=defense, optimizer="adam", learning_rate=1e-2, batch_size=8)
    work = TrialWork(spec, Training(epochs=2, learning_rate=1e-2, batch_size=8), 0.25, 2)
    told = []
    for test in (dataset.test, Secret()):
        measuring.measure(work, replace(dataset, test=test), told.append)
    first, second = ([{**row, "seconds": 0} for row in event.trial] for event in told if hasattr(event, "trial"))
    assert first == second and len(first) == 3


def test_other_test_images_make_no_other_choice(shapes, made, tmp_path, monkeypatch):
    """Whole runs, of which one has noise for test images, all of one class."""
    load = runner.load

    def poisoned(source, device):
        dataset = load(source, device)
        pixels, labels, mean, std = dataset.test.tensors()
        noise = torch.randint(256, pixels.shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        return replace(dataset, test=LabelledImages(noise, torch.zeros_like(labels), mean, std))

    monkeypatch.setattr(runner, "load", poisoned)
    run(tuned_grid_of(shapes), tmp_path / "poisoned")
    pd.testing.assert_frame_equal(trials(tmp_path / "poisoned"), trials(made))
    (training, rebuilt, _), (before, rebuilt_before, _) = comparable(tmp_path / "poisoned"), comparable(made)
    of_test = ["test_accuracy", "test_images", "chance"]
    assert (training["test_accuracy"] != before["test_accuracy"]).any() and set(training["chance"]) == {1.0}
    pd.testing.assert_frame_equal(training.drop(columns=of_test), before.drop(columns=of_test))
    pd.testing.assert_frame_equal(rebuilt, rebuilt_before)


def test_validation_images_are_training_images_by_class_the_same_for_all_and_no_trial_learns_them(shapes, tmp_path, monkeypatch):
    given, train = [], measuring.train

    def noted(private, dataset, epochs, *arguments, **others):
        given.append((private.data_loader.dataset.tensors()[:2], dataset.test.tensors()[:2]))
        return train(private, dataset, epochs, *arguments, **others)

    monkeypatch.setattr(measuring, "train", noted)
    grid = tuned_grid_of(shapes, defenses=["none", "dp-sgd(accountant='rdp')"], seeds=[0], models=["lenet", "mlp"])
    run(grid, tmp_path / "run")
    whole = datasets.load(datasets.find(str(shapes)), CPU)

    def images(pixels, labels):
        return sorted((int(label), pixel.numpy().tobytes()) for pixel, label in zip(pixels, labels, strict=True))

    of_trials, of_cells = given[:16], given[16:]
    (learned, held_out), *others = [(images(*train), images(*test)) for train, test in of_trials]
    assert all(other == (learned, held_out) for other in others)
    assert sorted(learned + held_out) == images(*whole.train.tensors()[:2])  # each once
    assert np.bincount([label for label, _ in held_out]).tolist() == [4, 4]
    assert not {image for _, image in held_out} & {image for _, image in learned}
    assert len(of_cells) == 4
    for train_images, test_images in of_cells:
        assert images(*train_images) == images(*whole.train.tensors()[:2]) and images(*test_images) == images(*whole.test.tensors()[:2])


def test_a_data_set_that_has_nothing_to_validate_by_is_refused(tmp_path):
    for name in ("blue", "red"):
        for split in ("train", "test"):
            (tmp_path / "one" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), name).save(tmp_path / "one" / split / name / "0.png")
    changes = {"attacks": [], "evaluation": {"victims": 1}}
    assert len(runner.identify(grid_of(tmp_path / "one", **changes), CPU).cells) == 4
    with pytest.raises(InputError, match="dataset one has one training image of each class, so that none can be kept apart"):
        runner.identify(tuned_grid_of(tmp_path / "one", **changes), CPU)


def test_seeds_and_attacks_that_are_added_use_the_trials_that_are_there(shapes, made, tmp_path):
    """Trials have no seed: a larger grid has the same."""
    small, large = (runner.identify(tuned_grid_of(shapes, **changes), CPU).trials for changes in (
        {"seeds": [3], "attacks": [], "evaluation": {"victims": 1}}, {"seeds": [0, 1, 2], "defenses": ["none", "noise(std=0.1)", "precode"]}))
    assert list(small) == list(results.read_manifest(made)["trials"]) == list(large)[:8] and len(large) == 12


@pytest.mark.parametrize("changes", [{"training": {"epochs": 3}}, {"tuning": {**TUNING, "validation": 0.5}}, {"tuning": {**TUNING, "epochs": 1}},
                                     {"training": {"epochs": 2, "precision": "bfloat16"}}], ids=["epochs", "validation", "shorter", "precision"])
def test_each_setting_of_the_tuning_makes_other_trials_and_models(shapes, changes):
    before, after = (runner.identify(tuned_grid_of(shapes, **of), CPU) for of in ({}, changes))
    assert not before.trials.keys() & after.trials.keys() and not before.cells.keys() & after.cells.keys()


def test_further_step_sizes_use_the_trials_that_are_there_and_make_other_models(shapes, finished, tmp_path):
    before, after = (runner.identify(tuned_grid_of(shapes, **of), CPU) for of in (
        {}, {"tuning": {**TUNING, "step_sizes": [1e-3, 3e-3, 1e-2]}}))
    assert before.trials.keys() < after.trials.keys() and not before.cells.keys() & after.cells.keys()


def test_shorter_trials_are_of_the_first_epochs_of_the_training_that_is_planned(shapes, made, tmp_path):
    """Of a defense, too, whose noise depends on how long it trains."""
    defense = "dp-sgd(target_epsilon=3.0, accountant='rdp')"
    grids = [tuned_grid_of(shapes, defenses=[defense], seeds=[0], attacks=[], tuning={**TUNING, "step_sizes": [1e-2], "epochs": epochs})
             for epochs in (None, 1)]
    for name, grid in zip(("whole", "short"), grids, strict=True):
        run(grid, tmp_path / name)
    whole, short = (trials(tmp_path / name) for name in ("whole", "short"))
    assert set(short["epoch"]) == {0, 1} and short["epsilon"].notna().all()
    pd.testing.assert_frame_equal(short, whole[whole["epoch"] < 2].reset_index(drop=True))
    assert set(comparable(tmp_path / "short")[0]["epoch"]) == {0, 1, 2}


def test_each_optimizer_is_tried(shapes, tmp_path):
    run(tuned_grid_of(shapes, defenses=["none"], seeds=[0], attacks=[], tuning={**TUNING, "optimizers": ["sgd", "adam"]}), tmp_path / "run")
    table = trials(tmp_path / "run")
    assert table.groupby("optimizer").size().to_dict() == {"adam": 12, "sgd": 12}
    assert not np.allclose(*(table[(table["optimizer"] == name) & (table["epoch"] == 2)]["train_loss"] for name in ("adam", "sgd")))


class Stopped(BaseException):
    pass


def test_a_run_that_stops_within_its_tuning_repeats_no_finished_trial(shapes, made, tmp_path, monkeypatch):
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
    same(tmp_path / "run", made)


def same(first, second):
    pd.testing.assert_frame_equal(trials(first), trials(second))
    for one, other in zip(comparable(first), comparable(second), strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("name", ["trial.parquet", "part.json"])
@pytest.mark.parametrize("harm", [lambda content: content[: len(content) // 2], lambda content: b"", None], ids=["cut off", "empty", "gone"])
def test_a_damaged_trial_is_set_aside_and_tried_again(shapes, made, finished, name, harm, monkeypatch):
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
    same(finished, made)


def test_trials_of_another_run_are_taken_where_they_are_whole(shapes, made, finished, tmp_path, monkeypatch):
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
    pd.testing.assert_frame_equal(trials(tmp_path / "run"), trials(made))
    assert (damaged.parent / "part.json").is_file()  # the other run is left as it is


def plan_of(grid, folder):
    found = runner.identify(grid, CPU)
    return planning.planned(found.trials, found.cells, found.attacks, found.identifications, folder)


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


def test_cells_are_measured_again_by_what_was_chosen(made, monkeypatch):
    sample = reproducing.draw(made, 4, CPU, seed=0)
    assert all(comparison.identical for comparison in reproducing.reproduce(sample, Silent(), executors.Serial()))
