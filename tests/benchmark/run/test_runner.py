"""Whole runs on a tiny data set: results, resuming, failures, and what identifies a cell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from run_cases import CPU, Silent, comparable, grid_of, run
from safetensors.torch import load_file as load_checkpoint

import defenses
from benchmark.errors import InputError
from benchmark.executors import serial
from benchmark.run import runner
from benchmark.store import recording, results
from benchmark.store.tables import TRAINING


@pytest.fixture
def failing_defense():
    @dataclass(frozen=True)
    class Failing(defenses.Defense):
        name: ClassVar[str] = "failing"

        def transform_gradients(self, gradients, step):
            raise RuntimeError("out of\nluck")

    defenses.registry.register(Failing)
    yield
    del defenses.registry._classes["failing"]


def test_tables_images_and_checkpoints(shapes, tmp_path):
    display = Silent()
    assert run(grid_of(shapes, models=["mlp"]), tmp_path / "run", display) == runner.Outcome(kept=0, finished=4, failed=0)
    assert len(display.cells) == 4 and all(0 <= share <= 1 for share in display.shares)
    read = results.read_run(tmp_path / "run")
    training, rebuilt, _ = results.joined(read.cells)
    assert len(training) == 4 * 3
    assert len(rebuilt) == 4 * 2 * 3 * 2
    assert rebuilt[["ssim", "mse", "psnr", "cost", "score", "blind_score", "seconds"]].notna().all(axis=None)
    assert set(training["defense"]) == {"none", "noise(std=0.1)"}
    assert json.loads(training["defense_params"].iloc[-1]) == {"std": 0.1, "distribution": "gaussian"}
    cell = read.cells[0]
    images = cell.images("2")
    assert {key: image.shape for key, image in images.items()} == dict.fromkeys(
        ["original", "epoch 0 both inverting-gradients(iterations=3)", "epoch 2 both inverting-gradients(iterations=3)"], (3, 2, 3, 8, 8))
    weights = [load_checkpoint(results.checkpoint_path(cell.folder, epoch)) for epoch in (0, 2)]
    assert weights[0].keys() == weights[1].keys() and not torch.equal(weights[0]["1.weight"], weights[1]["1.weight"])


def test_the_stored_images_score_what_the_table_says(shapes, tmp_path):
    from benchmark.measure.metrics import ssim
    run(grid_of(shapes, defenses=["none"], seeds=[0]), tmp_path / "run")
    read = results.read_run(tmp_path / "run")
    images = read.cells[0].images("2")
    for row in results.joined(read.cells)[1].itertuples():
        rebuilt = images[results.images_key(row.checkpoint_epoch, row.attack, row.knowledge)][row.victim, row.image] / 255
        original = images["original"][row.victim, row.image] / 255
        assert ssim(original, rebuilt) == pytest.approx(row.ssim, abs=0.02)  # stored in 8 bits


def test_the_same_command_gives_the_same_tables(shapes, tmp_path):
    grid = grid_of(shapes, defenses=["none", "precode", "dp-sgd"])
    for name in ("a", "b"):
        run(grid, tmp_path / name)
    for first, second in zip(comparable(tmp_path / "a"), comparable(tmp_path / "b"), strict=True):
        pd.testing.assert_frame_equal(first, second)


def test_a_cell_does_not_depend_on_the_rest_of_the_grid(shapes, tmp_path):
    run(grid_of(shapes), tmp_path / "all")
    run(grid_of(shapes, defenses=["noise(std=0.1)"], seeds=[1]), tmp_path / "one")
    for table, alone in zip(comparable(tmp_path / "all"), comparable(tmp_path / "one"), strict=True):
        chosen = table[(table["defense"] == "noise(std=0.1)") & (table["seed"] == 1)].reset_index(drop=True)
        pd.testing.assert_frame_equal(chosen, alone)


def test_a_run_goes_on_where_it_stopped_and_says_so(shapes, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    grid, calls, measure = grid_of(shapes), [], serial.measure

    def stop_at_third(work, dataset, tell):
        calls.append(work)
        if len(calls) == 3:
            raise Stopped
        measure(work, dataset, tell)

    monkeypatch.setattr(serial, "measure", stop_at_third)
    with pytest.raises(Stopped):
        run(grid, tmp_path / "run")
    (tmp_path / "run" / "cells" / ".half-written.1").mkdir()
    display = Silent()
    assert run(grid, tmp_path / "run", display) == runner.Outcome(kept=2, finished=2, failed=0)
    assert "2 of 4 cells are done already" in display.messages[0]
    assert not list((tmp_path / "run" / "cells").glob(".*"))
    monkeypatch.undo()
    run(grid, tmp_path / "whole")
    for first, second in zip(comparable(tmp_path / "run"), comparable(tmp_path / "whole"), strict=True):
        pd.testing.assert_frame_equal(first, second)


def test_a_failing_cell_is_recorded_and_does_not_stop_the_others(shapes, tmp_path, failing_defense):
    grid = grid_of(shapes, defenses=["failing", "none"], seeds=[0])
    assert run(grid, tmp_path / "run") == runner.Outcome(kept=0, finished=1, failed=1)
    (failure,) = results.read_run(tmp_path / "run").failures.values()
    assert failure["error"] == "RuntimeError: out of luck" and "transform_gradients" in failure["traceback"]
    # It is tried again, and its record goes once it succeeds.
    defenses.registry._classes["failing"].transform_gradients = lambda self, gradients, step: gradients
    assert run(grid, tmp_path / "run") == runner.Outcome(kept=1, finished=1, failed=0)
    assert results.read_run(tmp_path / "run").failures == {}


def test_an_attack_that_does_not_apply_is_noted_not_scored(shapes, tmp_path):
    grid = grid_of(shapes, defenses=["none", "noise"], seeds=[0], attacks=["likelihood(iterations=2)"],
                   evaluation={"victims": 2, "observed": [2], "labels": "inferred", "checkpoints": [0]})
    run(grid, tmp_path / "run")
    read = results.read_run(tmp_path / "run")
    rebuilt = results.joined(read.cells)[1]
    assert set(rebuilt["defense"]) == {"noise(std=0.01)"} and set(rebuilt["knowledge"]) == {"informed"}
    notes = {cell.trained["defense"]: {note["knowledge"]: note["reason"] for note in cell.inapplicable} for cell in read.cells}
    assert notes["none"] == dict.fromkeys(("blind", "informed"), "the gradient carries no noise of known variance")
    assert notes["noise(std=0.01)"] == {"blind": "a blind attacker does not know of noise"}


def test_blind_and_informed_attackers_are_measured_once_where_both_do_the_same(shapes, tmp_path):
    """Rows of both; a score by what each observes."""
    attack = "inverting-gradients(iterations=3)"
    grid = grid_of(shapes, defenses=["none", "noise", "precode"], seeds=[0], evaluation={"victims": 2, "checkpoints": [0]})
    run(grid, tmp_path / "run")
    rows = results.joined(results.read_run(tmp_path / "run").cells)[1]
    assert {defense: set(frame["knowledge"]) for defense, frame in rows.groupby("defense")} == {
        "none": {"both"}, "noise(std=0.01)": {"both"}, "precode(bottleneck_size=256)": {"blind", "informed"}}
    assert (rows["blind_score"].isna() == (rows["knowledge"] == "informed")).all() and rows["score"].notna().all()
    same = rows[rows["defense"] == "none"]
    assert (same["score"] == same["blind_score"]).all()
    assert (rows[rows["defense"] != "none"]["score"] != rows[rows["defense"] != "none"]["blind_score"]).all()
    for knowledge in ("blind", "informed"):
        run(grid_of(shapes, defenses=["precode"], seeds=[0], evaluation={"victims": 2, "checkpoints": [0], "knowledge": [knowledge]}), tmp_path / knowledge)
        alone = comparable(tmp_path / knowledge)[1]
        of_both = comparable(tmp_path / "run")[1]
        chosen = of_both[(of_both["defense"] == alone["defense"][0]) & (of_both["knowledge"] == knowledge)].reset_index(drop=True)
        pd.testing.assert_frame_equal(chosen, alone)
    assert attack in set(rows["attack"])


def test_the_version_of_the_portfolio_and_the_plain_client_are_recorded(shapes, tmp_path):
    from attacks.portfolio import VERSION
    plan = runner.prepare(grid_of(shapes), tmp_path / "plain", CPU)
    manifest = results.read_manifest(tmp_path / "plain")
    assert plan and manifest["determinants"]["portfolio"] == VERSION and manifest["undefended"] == "none"
    runner.prepare(grid_of(shapes, defenses=["noise"]), tmp_path / "other", CPU)
    assert results.read_manifest(tmp_path / "other")["undefended"] is None


def test_folder_of_another_grid_or_of_something_else_is_refused(shapes, tmp_path):
    run(grid_of(shapes, seeds=[0]), tmp_path / "run")
    before = sorted(p.name for p in (tmp_path / "run" / "cells").iterdir())
    with pytest.raises(InputError, match="made by another grid: grid seeds was"):
        runner.prepare(grid_of(shapes, seeds=[1]), tmp_path / "run", CPU)
    with pytest.raises(InputError, match="determinants device was 'cpu'"):
        runner.prepare(grid_of(shapes, seeds=[0]), tmp_path / "run", torch.device("meta"), load_on=CPU)
    assert sorted(p.name for p in (tmp_path / "run" / "cells").iterdir()) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not a run"):
        runner.prepare(grid_of(shapes), tmp_path / "other", CPU)


@pytest.mark.parametrize(("changes", "message"), [
    ({"evaluation": {"victims": 40}}, "32 training images, but evaluation.victims is 40"),
    ({"models": ["torchvision:alexnet"]}, "does not take images"),
    ({"datasets": ["nowhere"]}, "unknown dataset"),
])
def test_what_cannot_run_is_refused_before_any_work(shapes, tmp_path, without_data_root, changes, message):
    with pytest.raises(InputError, match=message):
        runner.prepare(grid_of(shapes, **changes), tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


def test_a_damaged_cell_file_is_named(shapes, tmp_path):
    run(grid_of(shapes, defenses=["none"], seeds=[0]), tmp_path / "run")
    (table,) = (tmp_path / "run").glob("cells/*/trained/training.parquet")
    table.write_bytes(table.read_bytes()[:40])
    with pytest.raises(InputError, match=r"training.parquet is not a readable table"):
        results.read_run(tmp_path / "run")


def test_rows_have_exactly_the_columns_of_the_table(tmp_path):
    with pytest.raises(ValueError, match="expected"):
        recording.write_table(tmp_path / "t.parquet", [{"dataset": "x"}], TRAINING)


def test_attacks_see_paired_victims_and_starts(shapes, tmp_path):
    """Defenses are attacked on the same images and from the same starts, so that their rows can be compared one by one. A step too
    small to move an image makes an attack return its start."""
    label = "inverting-gradients(iterations=1, step_size=1e-12)"
    run(grid_of(shapes, models=["lenet"], defenses=["none", "noise(std=0.1)", "precode"], attacks=[label]), tmp_path / "run")
    read = results.read_run(tmp_path / "run")
    label = next(iter(read.manifest["attacks"].values()))["attack"]
    of_seeds = []
    for seed in (0, 1):
        images = [cell.images("2") for cell in read.cells if cell.trained["seed"] == seed]
        assert len(images) == 3 and [len(own) for own in images] == [3, 3, 5]  # PRECODE's attackers differ, blind and informed
        names = ["original", *(results.images_key(epoch, label, "both") for epoch in (0, 2))]
        first = {name: images[0][name] for name in names}
        for own in images:
            for name, found in own.items():
                expected = next(image for like, image in first.items() if like.split()[:2] == name.split()[:2])
                assert np.array_equal(found, expected), name
        of_seeds.append(first)
    assert not any(np.array_equal(of_seeds[0][name], of_seeds[1][name]) for name in names)


def test_each_checkpoint_is_attacked_in_its_own_state(shapes, tmp_path):
    """Its rows are those of a run that observes no other epoch; before the first epoch, those of a run that does not train."""
    def rows(name, checkpoints, epochs=2):
        grid = grid_of(shapes, models=["lenet"], defenses=["none", "precode"], seeds=[0],
                       evaluation={"checkpoints": checkpoints, "victims": 3}, training={"epochs": epochs, "batch_size": 8})
        run(grid, tmp_path / name)
        return comparable(tmp_path / name)[1]

    both = rows("both", [0, -1])
    first, last = (both[both["checkpoint_epoch"] == epoch].reset_index(drop=True) for epoch in (0, 2))
    pd.testing.assert_frame_equal(first, rows("first", [0]))
    pd.testing.assert_frame_equal(first, rows("untrained", [0], epochs=0))
    pd.testing.assert_frame_equal(last, rows("last", [-1]))
    assert (first["cost"] != last["cost"]).all()


def test_no_image_is_a_target_twice(shapes, tmp_path):
    """All 32 training images are targets."""
    grid = grid_of(shapes, models=["lenet"], defenses=["none"], seeds=[0], evaluation={"victims": 32},
                   attacks=["inverting-gradients(iterations=1)"])
    run(grid, tmp_path / "run")
    originals = results.read_run(tmp_path / "run").cells[0].images("single")["original"]
    assert len(np.unique(originals.reshape(32, -1), axis=0)) == 32


def test_a_folder_named_in_two_ways_gives_the_same_results_and_twice_in_a_grid_is_refused(shapes, tmp_path, monkeypatch):
    small = {"defenses": ["none"], "seeds": [0], "attacks": [], "evaluation": {"victims": 1}}
    run(grid_of(shapes, **small), tmp_path / "run")
    monkeypatch.chdir(shapes.parent)
    assert run(grid_of("./shapes/", **small), tmp_path / "run") == runner.Outcome(kept=1, finished=0, failed=0)
    assert set(results.joined(results.read_run(tmp_path / "run").cells)[0]["dataset"]) == {"shapes"}
    with pytest.raises(InputError, match=r"two data sets of the grid have the name 'shapes', of which one is \./shapes"):
        runner.identify(grid_of(shapes, **{**small, "datasets": [str(shapes), "./shapes"]}), CPU)
    with pytest.raises(InputError, match=r"grid datasets was \['shapes'\] there and is \['mnist5k'\] now"):
        runner.prepare(grid_of(shapes, **{**small, "datasets": ["mnist5k"]}), tmp_path / "run", CPU)
