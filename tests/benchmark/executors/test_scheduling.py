"""What is trained once serves every attack, now and later, and any part of a cell can be measured at any time."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from run_cases import CPU, Silent, comparable, grid_of, run

import attacks
from benchmark import plugins
from benchmark.config import make_grid
from benchmark.errors import InputError
from benchmark.measure import measuring
from benchmark.run import runner
from benchmark.store import results

pytestmark = pytest.mark.usefixtures("short_fits")

FIRST, SECOND = "inverting-gradients(iterations=3)", "dlg(iterations=2)"


def sorted_tables(folder):
    return [table.sort_values(list(table.columns)).reset_index(drop=True) for table in comparable(folder)]


def no_training(monkeypatch):
    monkeypatch.setattr(measuring, "train", lambda *arguments, **others: pytest.fail("trained again"))


@pytest.mark.parametrize("defense", ["none", "precode", "dp-sgd", "top-k", "precode+noise"])
def test_an_attack_that_is_added_later_does_not_train_and_gives_what_it_gives_at_once(shapes, tmp_path, monkeypatch, defense):
    grids = [grid_of(shapes, defenses=[defense], seeds=[0], attacks=chosen) for chosen in ([FIRST], [FIRST, SECOND])]
    run(grids[1], tmp_path / "at once")
    run(grids[0], tmp_path / "later", command="the first")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "later" / "cells").rglob("*") if path.is_file()}
    no_training(monkeypatch)
    assert run(grids[1], tmp_path / "later", command="the second") == runner.Outcome(kept=0, finished=1, failed=0)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    for first, second in zip(sorted_tables(tmp_path / "at once"), sorted_tables(tmp_path / "later"), strict=True):
        pd.testing.assert_frame_equal(first, second)
    assert results.read_manifest(tmp_path / "later")["provenance"]["command"] == "the second"  # which makes all of it
    with pytest.raises(InputError, match=r"it has the attack dlg\(iterations=2\), which this one lacks"):
        runner.prepare(grids[0], tmp_path / "later", CPU)


def test_models_of_another_run_are_taken_where_they_are_the_same(shapes, tmp_path, monkeypatch):
    run(grid_of(shapes), tmp_path / "first")
    other = {"victims": 4, "observed": [1], "checkpoints": [-1], "labels": "inferred"}
    run(grid_of(shapes, evaluation=other), tmp_path / "trained")
    grid = grid_of(shapes, evaluation=other, attacks=[SECOND, FIRST])
    longer = grid_of(shapes, evaluation=other, training={"epochs": 3, "batch_size": 8})
    more = grid_of(shapes, evaluation={**other, "checkpoints": [0, 1]})
    with monkeypatch.context() as patch:
        no_training(patch)
        assert run(grid, tmp_path / "taken", models_from=[tmp_path / "first"]).finished == 4
    for table, wanted in zip(comparable(tmp_path / "taken"), comparable(tmp_path / "trained"), strict=True):
        if "attack" in table:
            table = table[table["attack"] == FIRST].reset_index(drop=True)
        pd.testing.assert_frame_equal(table, wanted)
    for needs_training in (longer, more):  # another training; a checkpoint that was not saved
        assert not list((runner.prepare(needs_training, tmp_path / str(id(needs_training)), CPU, models_from=[tmp_path / "first"])
                         .out / "cells").iterdir())
    with pytest.raises(InputError, match="not a run folder"):
        runner.prepare(grid, tmp_path / "x", CPU, models_from=[tmp_path / "nowhere"])
    assert not (tmp_path / "x").exists()


def test_what_was_measured_is_taken_with_the_models_into_a_larger_grid(shapes, tmp_path, monkeypatch):
    evaluation = {"victims": 2, "observed": [1], "checkpoints": [0], "candidates": 4}
    run(grid_of(shapes, defenses=["none"], evaluation=evaluation), tmp_path / "first")
    run(grid_of(shapes, defenses=["noise(std=0.1)"], evaluation=evaluation), tmp_path / "second")
    folders = [tmp_path / "first", tmp_path / "second"]
    damaged = min((tmp_path / "second").glob("cells/*/attack-*/reconstructions.parquet"))
    damaged.write_bytes(b"no table")
    grid = grid_of(shapes, defenses=["none", "noise(std=0.1)"], evaluation=evaluation)
    whole = run(grid, tmp_path / "whole")
    with monkeypatch.context() as patch:
        no_training(patch)
        assert run(grid, tmp_path / "larger", results_from=folders) == runner.Outcome(kept=whole.finished - 1, finished=1, failed=0)
    for first, second in zip(comparable(tmp_path / "larger"), comparable(tmp_path / "whole"), strict=True):
        pd.testing.assert_frame_equal(first, second)
    with pytest.raises(InputError, match="not a run folder"):
        runner.prepare(grid, tmp_path / "x", CPU, results_from=[tmp_path / "nowhere"])


@pytest.mark.parametrize("change", [{"epochs": 2}, {"batch_size": 4}, {"learning_rate": 1e-2}, {"precision": "bfloat16"}], ids=min)
def test_each_setting_of_the_training_makes_other_models(shapes, tmp_path, change):
    first, second = (grid_of(shapes, defenses=["none"], seeds=[0], attacks=[], evaluation={"checkpoints": [0, 1], "victims": 1},
                             training={"epochs": 1, "batch_size": 8, **changed}) for changed in ({}, change))
    run(first, tmp_path / "first")
    plan = runner.prepare(second, tmp_path / "second", CPU, models_from=[tmp_path / "first"])
    assert not list((tmp_path / "second" / "cells").iterdir())
    assert runner.run(plan, Silent()).finished == 1
    keys, others = (results.read_manifest(tmp_path / name)["cells"].keys() for name in ("first", "second"))
    assert not keys & others
    losses, other_losses = (comparable(tmp_path / name)[0]["train_loss"] for name in ("first", "second"))
    assert not losses.equals(other_losses)


def test_images_that_changed_under_the_same_name_make_other_models(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "shapes")
    grid = grid_of(tmp_path / "shapes", defenses=["none"], seeds=[0], attacks=[], evaluation={"victims": 1})
    run(grid, tmp_path / "before")
    for image in (tmp_path / "shapes" / "blue").iterdir():
        Image.new("RGB", (8, 8), (255, 255, 0)).save(image)
    plan = runner.prepare(grid, tmp_path / "after", CPU, models_from=[tmp_path / "before"])
    plan.lock.release()
    assert not list((tmp_path / "after" / "cells").iterdir())


def test_a_training_survives_the_failure_of_an_attack(shapes, tmp_path, monkeypatch):
    grid = grid_of(shapes, defenses=["none"], seeds=[0], attacks=[FIRST, SECOND])
    with monkeypatch.context() as patch:
        patch.setattr(attacks.DLG, "reconstruct", lambda *arguments, **others: 1 / 0)
        assert run(grid, tmp_path / "run").failed == 1
    no_training(monkeypatch)
    monkeypatch.setattr(attacks.InvertingGradients, "reconstruct", lambda *arguments, **others: pytest.fail("attacked again"))
    assert run(grid, tmp_path / "run") == runner.Outcome(kept=0, finished=1, failed=0)


def test_a_portfolio_is_a_list_of_attacks_each_saved_by_itself(shapes, tmp_path, monkeypatch):
    """An attack of a plugin, which takes part, is measured on the saved models, and no other one again."""
    monkeypatch.setattr("attacks.portfolio.BUDGETS", {"fast": (3, 1)})
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom attacks import InvertingGradients\n"
        "@dataclass(frozen=True)\nclass Mine(InvertingGradients):\n    name: ClassVar[str] = 'mine'\n")
    evaluation = {"victims": 2, "checkpoints": [0]}
    grid = grid_of(shapes, defenses=["precode"], seeds=[0], attacks=["portfolio(budget='fast')"], evaluation=evaluation)
    assert len(grid.attacks) > 8 and not any("portfolio" in label for label in grid.attacks)
    run(grid, tmp_path / "run")
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").rglob("attack-*/*")}
    assert len({path.parent for path in parts}) == len(grid.attacks)
    plugin = plugins.read(tmp_path / "mine.py")
    try:
        no_training(monkeypatch)
        larger = grid_of(shapes, defenses=["precode"], seeds=[0], attacks=["portfolio(budget='fast')"], evaluation=evaluation)
        assert set(larger.attacks) - set(grid.attacks) == {"mine(iterations=3)"}
        assert run(larger, tmp_path / "run", plugins=[plugin]).finished == 1
        assert all(path.stat().st_mtime_ns == time for path, time in parts.items())
        rows = results.joined(results.read_run(tmp_path / "run").cells)[1]
        assert (rows["attack"] == "mine(iterations=3)").any()
        assert not rows.duplicated(["defense", "attack", "knowledge", "victim", "image"]).any()
    finally:
        del attacks.registry._classes["mine"], sys.modules[plugin.module]


@pytest.mark.parametrize("defense", ["none", "precode"])
@pytest.mark.parametrize(("rounds", "checkpoints"), [(1, [0, -1]), (2, [-1])], ids=["1", "2"])
def test_fewer_victims_at_once_where_memory_is_short_give_the_same(shapes, tmp_path, monkeypatch, defense, rounds, checkpoints):
    monkeypatch.setattr("attacks.portfolio.BUDGETS", {"fast": (4, 1)})
    grid = grid_of(shapes, models=["lenet"], defenses=[defense], seeds=[0], attacks=["portfolio(budget='fast')"],
                   evaluation={"victims": 11, "observed": [2], "checkpoints": checkpoints, "rounds": rounds, "labels": "inferred"})
    run(grid, tmp_path / "all")
    display = Silent()
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.measure.victim_memory.available", lambda device: 4 * 5 * rounds * gradient_bytes(grid))
        run(grid, tmp_path / "parts", display)
    assert any("4 victims are attacked at once" in message for message in display.messages)
    for first, second in zip(comparable(tmp_path / "all"), comparable(tmp_path / "parts"), strict=True):
        pd.testing.assert_frame_equal(first, second)
    whole, parts = (results.read_run(tmp_path / name).cells[0].images("2") for name in ("all", "parts"))
    assert whole.keys() == parts.keys() and all(np.array_equal(whole[name], parts[name]) for name in whole)


def gradient_bytes(grid):
    import defenses
    from benchmark import models
    module = defenses.create(grid.defenses[0]).extend_model(models.build(grid.models[0], (3, 8, 8), 2))
    return sum(4 * p.numel() for p in module.parameters())


def test_victims_are_halved_where_memory_runs_out_all_the_same(shapes, tmp_path, monkeypatch):
    grid = grid_of(shapes, defenses=["none"], seeds=[0], evaluation={"victims": 6, "checkpoints": [0, -1]})
    run(grid, tmp_path / "whole")
    plain = measuring.observe

    def limited(private, victims, *arguments, **others):
        if len(victims) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return plain(private, victims, *arguments, **others)

    monkeypatch.setattr(measuring, "observe", limited)
    run(grid, tmp_path / "halved")
    for first, second in zip(comparable(tmp_path / "whole"), comparable(tmp_path / "halved"), strict=True):
        pd.testing.assert_frame_equal(first, second, rtol=1e-4)  # parts of three are no multiple of four, so rounding differs
    monkeypatch.setattr(measuring, "observe", lambda *arguments, **others: (_ for _ in ()).throw(MemoryError()))
    assert run(grid, tmp_path / "none").failed == 1


def test_bfloat16_in_training_and_observation(shapes, tmp_path):
    tables = {}
    for precision in ("float32", "bfloat16"):
        training = {"epochs": 2, "batch_size": 8, "precision": precision}
        grid = grid_of(shapes, models=["lenet"], defenses=["none", "precode", "pruning"], seeds=[0], training=training)
        run(grid, tmp_path / precision)
        tables[precision] = comparable(tmp_path / precision)
    training, rebuilt = (full.merge(half, on=list(keys)) for full, half, keys in zip(
        tables["float32"][:2], tables["bfloat16"][:2], (("defense", "epoch"), ("defense", "checkpoint_epoch", "victim", "image")),
        strict=True))
    later = training[training["epoch"] > 0]
    assert np.allclose(later["train_loss_x"], later["train_loss_y"], rtol=0.05) and (later["train_loss_x"] != later["train_loss_y"]).all()
    assert (rebuilt["cost_x"] != rebuilt["cost_y"]).all()
    with pytest.raises(InputError, match=r"training.precision must be 'float32' for precode\(bottleneck_size=256\)\+dp-sgd"):
        make_grid({"defenses": ["precode+dp-sgd"], "training": {"precision": "bfloat16"}}, "test")


def test_what_trains_is_what_leaks_in_bfloat16_too(shapes):
    """The observed gradient is that of the training's own step under the same precision."""
    import defenses
    from benchmark.config import Evaluation, Training
    from benchmark.data import datasets
    from benchmark.measure import evaluation, training
    from benchmark.measure.precision import autocast
    from benchmark.measure.victims import choose_victims
    dataset = datasets.load(datasets.find(str(shapes)), CPU)
    private = training.make_private(defenses.create("none"), dataset, "lenet", Training(), 0)
    observed = Evaluation(victims=3)
    victims = choose_victims(dataset, observed, 1, 0)
    found = evaluation.observe(private, victims, dataset, observed, 0, precision="bfloat16")
    for victim in range(3):
        with autocast(CPU, "bfloat16"):
            private.backward(victims.images(victim), victims.labels[victim])
        for name, p in private.module.named_parameters():
            assert p.grad.dtype == torch.float32 and torch.equal(p.grad, found.shared[name][victim])
