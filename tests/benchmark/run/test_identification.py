"""Identification as a part of cells: measured once, added to runs without it, measured again, planned."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from run_cases import CPU, Silent, comparable, grid_of, run

from benchmark import executors
from benchmark.cli import execute
from benchmark.errors import InputError
from benchmark.measure import measuring
from benchmark.run import planning, reproducing, runner
from benchmark.store import results
from reports.submission import record

EVALUATION = {"checkpoints": [0, -1], "victims": 3, "observed": [1]}
CHOSEN = {"defenses": ["none", "pruning(p=0.5)"], "seeds": [0], "attacks": ["inverting-gradients(iterations=3)"]}


def grid_with(shapes, candidates, **changes):
    return grid_of(shapes, **{**CHOSEN, "evaluation": {**EVALUATION, "candidates": candidates}, **changes})


def nothing_but_identification(monkeypatch):
    for name in ("train", "rebuild"):
        monkeypatch.setattr(measuring, name, lambda *arguments, name=name, **others: pytest.fail(f"{name} again"))


@pytest.fixture(scope="module")
def made(shapes, tmp_path_factory):
    """A run with identification, and one without."""
    folder = tmp_path_factory.mktemp("made")
    run(grid_with(shapes, 5), folder / "new")
    run(grid_with(shapes, 0), folder / "old")
    assert results.read_manifest(folder / "old")["identifications"] == {}
    return folder


@pytest.fixture
def old(made, tmp_path):
    return shutil.copytree(made / "old", tmp_path / "old")


@pytest.fixture
def new(made, tmp_path):
    return shutil.copytree(made / "new", tmp_path / "new")


def test_every_victim_has_a_row_at_each_checkpoint_and_for_each_attacker(made):
    read = results.read_run(made / "new")
    rows = results.joined(read.cells)[2]
    counts = rows.groupby(["defense", "checkpoint_epoch", "knowledge"]).size().to_dict()
    assert counts == {(defense, epoch, knowledge): 3 for defense, known in (("none", ["both"]), ("pruning(p=0.5)", ["blind", "informed"]))
                      for epoch in (0, 2) for knowledge in known}
    assert set(rows["candidates"]) == {5} and (rows["better"] + rows["tied"] < 5).all() and (rows["seconds"] > 0).all()
    assert (rows.loc[rows["defense"] == "none", ["better", "tied"]] == 0).all(axis=None)
    assert [set(info) >= {"candidates", "hardware", "seconds"} for cell in read.cells for info in cell.identified.values()] == [True] * 2
    assert len(results.joined(results.read_run(made / "old").cells)[2]) == 0


def test_all_models_and_defenses_of_a_seed_have_the_same_pools(shapes, tmp_path, monkeypatch):
    given, plain = {}, measuring.identify
    monkeypatch.setattr(measuring, "identify", lambda observation, victims, pools, **others: (
        given.setdefault(len(given), pools.indices.tolist()), plain(observation, victims, pools=pools, **others))[1])
    run(grid_with(shapes, 5, models=["lenet", "mlp"], seeds=[0, 1]), tmp_path / "run")
    assert len(given) == 16 and len({json.dumps(indices) for indices in given.values()}) == 2


def test_identification_does_not_depend_on_attacks_and_is_measured_once(shapes, made, tmp_path, monkeypatch):
    run(grid_with(shapes, 5, attacks=[]), tmp_path / "run")
    pd.testing.assert_frame_equal(comparable(tmp_path / "run")[2], comparable(made / "new")[2])
    monkeypatch.setattr(measuring, "identify", lambda *arguments, **others: pytest.fail("identified again"))
    assert run(grid_with(shapes, 5), tmp_path / "run").finished == 2
    for first, second in zip(comparable(tmp_path / "run"), comparable(made / "new"), strict=True):
        pd.testing.assert_frame_equal(first, second)


def test_it_is_added_to_a_run_without_training_or_attacking(shapes, made, old, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (old / "cells").rglob("*") if path.is_file()}
    assert len(results.read_run(old).cells) == 2
    hashed = record(results.read_run(old)).tables_sha256
    nothing_but_identification(monkeypatch)
    assert run(grid_with(shapes, 5), old) == runner.Outcome(kept=0, finished=2, failed=0)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    for first, second in zip(comparable(old), comparable(made / "new"), strict=True):
        pd.testing.assert_frame_equal(first, second)
    manifest, whole = results.read_manifest(old), results.read_manifest(made / "new")
    assert all(manifest[key] == whole[key] for key in ("identifications", "grid", "cells", "attacks"))
    assert record(results.read_run(old)).tables_sha256 != hashed
    assert run(grid_with(shapes, 5), old) == runner.Outcome(kept=2, finished=0, failed=0)


@pytest.mark.parametrize("candidates", [0, 6])
def test_it_is_neither_changed_nor_taken_away(shapes, new, candidates):
    before = (new / "run.json").read_bytes()
    with pytest.raises(InputError) as error:
        runner.prepare(grid_with(shapes, candidates), new, CPU)
    assert f"evaluation.candidates was 5 there and is {candidates} now" in str(error.value)
    assert "not changed or taken away: give --candidates 5, or name another folder with --out" in str(error.value)
    assert (new / "run.json").read_bytes() == before


def test_other_changes_are_still_refused(shapes, old):
    with pytest.raises(InputError, match="grid evaluation was"):
        runner.prepare(grid_with(shapes, 5, evaluation={**EVALUATION, "victims": 4, "candidates": 5}), old, CPU)


def test_the_command_adds_it_by_default(shapes, tmp_path, capsys):
    arguments = ["--dataset", str(shapes), "--model", "mlp", "--defense", "none", "--epochs", "1", "--checkpoint", "0", "--victims", "2",
                 "--seed", "0", "--observed", "single", "--attack", "dlg(iterations=1)", "--out", str(tmp_path / "run")]
    (tmp_path / "grid.yaml").write_text("name: mine\n")
    command = ["run", str(tmp_path / "grid.yaml"), *arguments]
    assert execute([*command, "--candidates", "0"]) == 0
    capsys.readouterr()
    assert execute(["plan", *command[1:]]) == 0
    assert "begun" in (output := capsys.readouterr().out) and "time left unknown" in output
    assert execute(command) == 0
    output = capsys.readouterr().out
    assert "1 cells finished, 0 kept, 0 failed" in output and "epoch 1/1" not in output
    assert "identification among 16 candidates, not 1000: there are no more training images of class '" in output
    for other in (["--candidates", "0"], ["--candidates", "16"]):
        assert execute([*command, *other]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "give --candidates 1000" in line


def test_a_cell_that_is_stopped_between_its_parts_goes_on_from_there(shapes, made, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    def stop(*arguments, **others):
        raise Stopped

    for part, left in (("identify", ["trained"]), ("rebuild", ["identification", "trained"])):
        with monkeypatch.context() as patch:
            patch.setattr(measuring, part, stop)
            with pytest.raises(Stopped):
                run(grid_with(shapes, 5, defenses=["none"]), tmp_path / "run")
        assert sorted(path.name.partition("-")[0] for path in (tmp_path / "run" / "cells").glob("*/*")) == left
        # What is there is not done again, now or the next time.
        done = {"identify": "train", "rebuild": "identify"}[part]
        monkeypatch.setattr(measuring, done, lambda *arguments, **others: pytest.fail("done again"))
    assert run(grid_with(shapes, 5, defenses=["none"]), tmp_path / "run").finished == 1
    for first, second in zip(comparable(tmp_path / "run"), comparable(made / "new"), strict=True):
        pd.testing.assert_frame_equal(first, second[second["defense"] == "none"].reset_index(drop=True))


def test_where_it_does_not_apply_the_cell_is_finished_and_says_why(shapes, tmp_path):
    display = Silent()
    grid = grid_with(shapes, 5, evaluation={**EVALUATION, "victims": 31, "observed": [2], "candidates": 5})
    assert run(grid, tmp_path / "run", display) == runner.Outcome(kept=0, finished=2, failed=0)
    read = results.read_run(tmp_path / "run")
    assert len(results.joined(read.cells)[2]) == 0
    reason = "there are no training images beside the victims' that could be public"
    assert read.cells[0].unidentified == [{"observed": "2", "checkpoint_epoch": epoch, "knowledge": knowledge, "reason": reason}
                                          for epoch in (0, 2) for knowledge in ("blind", "informed")]
    assert sum(f"no identification: {reason}" in message for message in display.messages) == 2


def test_a_rate_above_the_guarantee_fails_the_cell(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.measure.identifying.presence_mu", lambda observation: 1e-6)
    grid = grid_with(shapes, 8, defenses=["none"], evaluation={**EVALUATION, "victims": 8, "candidates": 8})
    assert run(grid, tmp_path / "run").failed == 1
    (failure,) = results.read_run(tmp_path / "run").failures.values()
    assert "8 of 8 victims are found among 8 candidates" in failure["error"] and "this is a bug" in failure["error"]


def test_a_run_is_reproduced_without_it(old, monkeypatch):
    monkeypatch.setattr(measuring, "identify", lambda *arguments, **others: pytest.fail("identified"))
    sample = reproducing.draw(old, 2, CPU, seed=0)
    assert all(comparison.identical for comparison in reproducing.reproduce(sample, Silent(), executors.Serial()))


def test_its_time_is_planned(shapes, old, tmp_path):
    def plan_of(grid, folder):
        found = runner.identify(grid, CPU)
        return planning.planned(found, folder)

    assert {(cell.state, cell.seconds) for cell in plan_of(grid_with(shapes, 5), old)} == {("begun", None)}
    run(grid_with(shapes, 5), old)
    for kind, seconds in (("trained", 10.0), ("attack-*", 2.0), ("identification-*", 0.5)):
        for file in old.glob(f"cells/*/{kind}/part.json"):
            file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": seconds}))
    larger = grid_with(shapes, 5, seeds=[0, 1])
    assert [(cell.state, cell.seconds) for cell in plan_of(larger, old)] == [("done", 12.5), ("to do", 12.5)] * 2
    for folder in old.glob("cells/*/identification-*"):
        shutil.rmtree(folder)
        break
    assert sorted((cell.state, cell.seconds) for cell in plan_of(grid_with(shapes, 5), old)) == [("begun", 0.5), ("done", 12.5)]
    without = grid_with(shapes, 0)
    assert [(cell.state, cell.seconds) for cell in plan_of(without, old)] == [("done", 12.0)] * 2
