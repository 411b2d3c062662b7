"""Whole runs on a tiny data set: results, resuming, failures, and what identifies a cell."""

from __future__ import annotations

import json
import shutil
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
from benchmark.measure import measuring
from benchmark.run import runner
from benchmark.store import layout, recording, results
from benchmark.store.tables import TRAINING

pytestmark = pytest.mark.usefixtures("short_fits")


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
    assert set(training["test_images"]) == {8} and set(training["chance"]) == {0.5}
    assert {tuple(row) for row in training[["optimizer", "learning_rate", "batch_size"]].itertuples(index=False)} == {("adam", 1e-3, 8)}
    assert (training["sent_bytes"].isna() == (training["epoch"] != 1)).all() and (training["step_memory"].isna() == (training["epoch"] != 1)).all()
    assert set(rebuilt["observed"]) == {"2"} and set(rebuilt["batch_size"]) == {2}
    assert json.loads(training["defense_params"].iloc[-1]) == {"std": 0.1, "distribution": "gaussian"}
    cell = read.cells[0]
    images = cell.images("2")
    assert {key: image.shape for key, image in images.items()} == dict.fromkeys(
        ["original", "epoch 0 both inverting-gradients(iterations=3)", "epoch 2 both inverting-gradients(iterations=3)"], (3, 2, 3, 8, 8))
    weights = [load_checkpoint(layout.checkpoint_path(cell.folder, epoch)) for epoch in (0, 2)]
    entries = sum(weight.numel() for name, weight in weights[0].items() if name.endswith(("weight", "bias")))
    sent = training[training["epoch"] == 1].groupby("defense")["sent_bytes"].agg(set)
    assert sent["noise(std=0.1)"] == {4 * entries} and max(sent["none"]) < 4 * entries  # units that are off have no gradient
    assert weights[0].keys() == weights[1].keys() and not torch.equal(weights[0]["1.weight"], weights[1]["1.weight"])


def test_the_stored_images_score_what_the_table_says(shapes, tmp_path):
    from benchmark.measure.metrics import ssim
    run(grid_of(shapes, defenses=["none"], seeds=[0]), tmp_path / "run")
    read = results.read_run(tmp_path / "run")
    images = read.cells[0].images("2")
    for row in results.joined(read.cells)[1].itertuples():
        rebuilt = images[layout.images_key(row.checkpoint_epoch, row.attack, row.knowledge)][row.victim, row.image] / 255
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
    assert notes["none"] == dict.fromkeys(("blind", "informed"), "the gradient carries no noise of known variance, nor is its likelihood told otherwise")
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


def test_a_run_goes_on_however_its_defenses_are_written(shapes, tmp_path):
    small = {"seeds": [0], "attacks": [], "evaluation": {"victims": 1}}
    run(grid_of(shapes, defenses=["none", "noise(std=[0.01, 0.1])"], **small), tmp_path / "run")
    again = grid_of(shapes, defenses=["none", "noise( std=[1e-2,.1] )", "noise(std=0.1)"], **small)
    assert run(again, tmp_path / "run") == runner.Outcome(kept=3, finished=0, failed=0)
    for other in (["none", "noise(std=[0.01])"], ["none", "noise(std=0.01)", "noise(std=0.1)"]):
        with pytest.raises(InputError, match="made by another grid: grid defenses was"):
            runner.prepare(grid_of(shapes, defenses=other, **small), tmp_path / "run", CPU)


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
        names = ["original", *(layout.images_key(epoch, label, "both") for epoch in (0, 2))]
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


def test_chance_is_the_share_of_the_most_frequent_class_among_the_test_images(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "shapes")
    for image in sorted((tmp_path / "shapes" / "blue").iterdir())[5:]:
        image.unlink()
    run(grid_of(tmp_path / "shapes", defenses=["none"], seeds=[0], attacks=[], evaluation={"victims": 1}), tmp_path / "run")
    training = comparable(tmp_path / "run")[0]
    assert set(training["test_images"]) == {1 + 4} and set(training["chance"]) == {0.8}


def test_so_many_gradients_are_attacked_that_few_images_are_behind_them_and_few_of_these_are_stored(shapes, tmp_path, monkeypatch):
    """All of single images; of others at least one. All victims are identified."""
    monkeypatch.setattr(measuring, "_STORED", 6)
    evaluation = {"checkpoints": [0], "victims": 6, "images": 8, "observed": [2, "single", 16], "candidates": 4}
    run(grid_of(shapes, defenses=["none"], seeds=[0], attacks=["inverting-gradients(iterations=1)"], evaluation=evaluation), tmp_path / "run")
    (cell,) = results.read_run(tmp_path / "run").cells
    _, rebuilt, identified = comparable(tmp_path / "run")
    counts = {mode: (set(rows["victim"]), set(rows["batch_size"]), len(rows)) for mode, rows in rebuilt.groupby("observed")}
    assert counts == {"2": ({0, 1, 2, 3}, {2}, 8), "single": ({0, 1, 2, 3, 4, 5}, {1}, 6), "16": ({0}, {16}, 16)}
    assert identified.groupby("observed").size().to_dict() == {"2": 6, "single": 6, "16": 6}
    stored = {mode: {image.shape[:2] for image in cell.images(mode).values()} for mode in ("2", "single", "16")}
    assert stored == {"2": {(3, 2)}, "single": {(6, 1)}, "16": {(1, 16)}}
    # The target of a gradient is the same whatever its batch.
    targets = [cell.images(mode)["original"][0, 0] for mode in ("2", "single", "16")]
    assert all(np.array_equal(target, targets[0]) for target in targets)


def test_modes_can_be_added_to_a_run_and_not_taken_away(shapes, tmp_path, monkeypatch):
    def grid(*observed):
        return grid_of(shapes, seeds=[0], evaluation={"checkpoints": [0, -1], "victims": 2, "observed": observed, "candidates": 4})

    run(grid("single"), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "train", lambda *arguments, **others: pytest.fail("trained again"))
        asked, observe = [], measuring.observe
        patch.setattr(measuring, "observe", lambda private, victims, *arguments, **others: (
            asked.append(victims.batch_size), observe(private, victims, *arguments, **others))[1])
        assert run(grid("as-trained", "single"), tmp_path / "run") == runner.Outcome(kept=0, finished=2, failed=0)
    assert set(asked) == {8} and all(path.stat().st_mtime_ns == time for path, time in before.items())
    run(grid("single", "as-trained"), tmp_path / "whole")
    for first, second in zip(comparable(tmp_path / "run"), comparable(tmp_path / "whole"), strict=True):
        columns = [name for name in ("defense", "observed", "epoch", "checkpoint_epoch", "victim", "image") if name in first]
        pd.testing.assert_frame_equal(*(table.sort_values(columns).reset_index(drop=True) for table in (first, second)))
    kept = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"it has evaluation.observed single, which this one lacks; it can be added to a run, not taken away: "
                                         r"name it too \(--observed\)"):
        runner.prepare(grid("as-trained"), tmp_path / "run", CPU)
    assert (tmp_path / "run" / "run.json").read_bytes() == kept
    assert results.read_manifest(tmp_path / "run")["grid"]["evaluation"]["observed"] == ["as-trained", "single"]


@pytest.mark.parametrize(("observed", "batch_size", "fits"), [([18], 8, True), ([19], 8, False), (["as-trained"], 18, True), (["as-trained"], 32, False)])
def test_gradients_that_are_larger_than_the_data_allow_are_refused(shapes, tmp_path, observed, batch_size, fits):
    """Of 32 images 4 are targets and 14 of the others public."""
    grid = grid_of(shapes, defenses=["none"], seeds=[0], attacks=["inverting-gradients(iterations=1)"], training={"epochs": 0, "batch_size": batch_size},
                   evaluation={"victims": 4, "images": 1, "observed": observed})
    if fits:
        assert run(grid, tmp_path / "run").finished == 1
        return
    message = f"dataset shapes has 32 training images, of which 14 are public: gradients of {max(19, batch_size)} images cannot be observed"
    with pytest.raises(InputError, match=message):
        runner.prepare(grid, tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()
