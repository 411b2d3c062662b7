"""Every defense is trained by the best of some trials, which see nothing of the test images."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from run_cases import CPU, TUNING, comparable, grid_of, run, trials, tuned_grid_of
from tuning_cases import CHOICE, chosen_by_hand, no_training

from benchmark.config import Training
from benchmark.data import datasets
from benchmark.data.loaders import LabelledImages
from benchmark.errors import InputError
from benchmark.measure import measuring
from benchmark.measure.work import TrialWork
from benchmark.run import runner
from benchmark.specification import TrialSpec
from benchmark.store import results
from benchmark.store.tables import TRIALS
from benchmark.store.trials import Tried, best, tried


def rewrite(folder, outcomes):
    """Let the trials of a run have come to validation accuracies after each epoch, by defense, step size and batch size."""
    for file in folder.glob("trials/*/trial.parquet"):
        rows = pq.read_table(file).to_pylist()
        accuracies = outcomes[rows[0]["defense"]][rows[0]["learning_rate"], rows[0]["batch_size"]]
        for row, accuracy in zip(rows, accuracies, strict=True):
            row["validation_accuracy"] = accuracy
        pq.write_table(pa.Table.from_pylist(rows, schema=TRIALS), file)


def test_what_is_written_of_trials(tuned_run, shapes):
    read = results.read_run(tuned_run)
    table = read.trials.to_pandas()
    assert len(table) == 2 * 4 * 3 and set(table["epoch"]) == {0, 1, 2}
    assert table.groupby(["defense", *CHOICE]).size().to_list() == [3] * 8
    assert table["validation_accuracy"].between(0, 1).all() and (table["train_loss"].isna() == (table["epoch"] == 0)).all()
    assert read.manifest["trials"] == {key: spec.model_dump() for key, spec in runner.identify(tuned_grid_of(shapes), CPU).trials.items()}
    assert len(read.manifest["trials"]) == 8 and read.failures == {}
    assert read.manifest["grid"]["tuning"] == {**TUNING, "optimizers": ["adam"], "epochs": None}


def test_all_seeds_train_by_the_choice_on_all_images(tuned_run):
    training = results.joined(results.read_run(tuned_run).cells)[0]
    choices = chosen_by_hand(trials(tuned_run))
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


def test_other_test_images_make_no_other_choice(shapes, tuned_run, tmp_path, monkeypatch):
    """Whole runs, of which one has noise for test images, all of one class."""
    load = runner.load

    def poisoned(source, device):
        dataset = load(source, device)
        pixels, labels, mean, std = dataset.test.tensors()
        noise = torch.randint(256, pixels.shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        return replace(dataset, test=LabelledImages(noise, torch.zeros_like(labels), mean, std))

    monkeypatch.setattr(runner, "load", poisoned)
    run(tuned_grid_of(shapes), tmp_path / "poisoned")
    pd.testing.assert_frame_equal(trials(tmp_path / "poisoned"), trials(tuned_run))
    (training, rebuilt, _), (before, rebuilt_before, _) = comparable(tmp_path / "poisoned"), comparable(tuned_run)
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


def test_seeds_and_attacks_that_are_added_use_the_trials_that_are_there(shapes, tuned_run, tmp_path):
    """Trials have no seed: a larger grid has the same."""
    small, large = (runner.identify(tuned_grid_of(shapes, **changes), CPU).trials for changes in (
        {"seeds": [3], "attacks": [], "evaluation": {"victims": 1}}, {"seeds": [0, 1, 2], "defenses": ["none", "noise(std=0.1)", "precode"]}))
    assert list(small) == list(results.read_manifest(tuned_run)["trials"]) == list(large)[:8] and len(large) == 12


@pytest.mark.parametrize("changes", [{"training": {"epochs": 3}}, {"tuning": {**TUNING, "validation": 0.5}}, {"tuning": {**TUNING, "epochs": 1}},
                                     {"training": {"epochs": 2, "precision": "bfloat16"}}], ids=["epochs", "validation", "shorter", "precision"])
def test_each_setting_of_the_tuning_makes_other_trials_and_models(shapes, changes):
    before, after = (runner.identify(tuned_grid_of(shapes, **of), CPU) for of in ({}, changes))
    assert not before.trials.keys() & after.trials.keys() and not before.cells.keys() & after.cells.keys()


def test_further_step_sizes_use_the_trials_that_are_there_and_make_other_models(shapes, finished, tmp_path):
    before, after = (runner.identify(tuned_grid_of(shapes, **of), CPU) for of in (
        {}, {"tuning": {**TUNING, "step_sizes": [1e-3, 3e-3, 1e-2]}}))
    assert before.trials.keys() < after.trials.keys() and not before.cells.keys() & after.cells.keys()


def test_shorter_trials_are_of_the_first_epochs_of_the_training_that_is_planned(shapes, tuned_run, tmp_path):
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
