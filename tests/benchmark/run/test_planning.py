"""What a run still has to do."""

from __future__ import annotations

import json
import re

import pytest
from run_cases import CPU, grid_of, run

from benchmark.cli import execute
from benchmark.run import planning, runner
from benchmark.store import results


def set_seconds(folder, seconds):
    """Put known times into the finished cells, by defense and seed: a tenth of it the training."""
    for file in folder.glob("cells/*/trained/part.json"):
        info = json.loads(file.read_text())
        (attack,) = file.parents[1].glob("attack-*/part.json")
        of_attack, known = json.loads(attack.read_text()), seconds[info["defense"], info["seed"]]
        file.write_text(json.dumps({**info, "seconds": known * 0.1}))
        attack.write_text(json.dumps({**of_attack, "seconds": known * 0.9}))


def plan_of(grid, folder):
    found = runner.identify(grid, CPU)
    return planning.planned(found, folder)


def test_estimates_are_those_of_the_cells_most_alike(shapes, tmp_path):
    run(grid_of(shapes), tmp_path / "run")
    set_seconds(tmp_path / "run", {("none", 0): 10.0, ("none", 1): 30.0, ("noise(std=0.1)", 0): 50.0, ("noise(std=0.1)", 1): 70.0})
    larger = grid_of(shapes, defenses=["none", "noise(std=0.1)", "pruning(p=0.5)"], seeds=[0, 1, 2], models=["mlp", "lenet"])
    cells = plan_of(larger, tmp_path / "run")
    times = {(cell.spec.model, cell.spec.defense, cell.spec.seed): (cell.state, cell.seconds) for cell in cells}
    assert times["lenet", "none", 1] == ("done", 30.0) and times["lenet", "none", 2] == ("to do", 20.0)
    assert times["lenet", "noise(std=0.1)", 2] == ("to do", 60.0) and times["lenet", "pruning(p=0.5)", 0] == ("to do", 40.0)
    assert times["mlp", "none", 0] == ("to do", 40.0)  # another model: by all of the data set
    left = 20 + 60 + 3 * 40 + 9 * 40
    assert planning.describe(cells).splitlines()[-1] == f"4 of 18 cells done; time left about {left // 60}:{left % 60:02}, one after another"


def test_without_any_measurement_the_time_is_unknown(shapes, tmp_path):
    cells = plan_of(grid_of(shapes), tmp_path / "nowhere")
    assert {(cell.state, cell.seconds) for cell in cells} == {("to do", None)}
    assert planning.describe(cells).endswith("0 of 4 cells done; time left unknown until one like it is finished")
    assert not (tmp_path / "nowhere").exists()


def test_other_runs_count_in_proportion(shapes, tmp_path):
    """Twice the victims are twice the time of an attack, and three times the iterations three times; a training grows with epochs."""
    evaluation = {"checkpoints": [0], "victims": 2, "observed": ["single"], "candidates": 5}
    given = {"defenses": ["none"], "seeds": [0], "models": ["mlp"]}
    run(grid_of(shapes, **given, training={"epochs": 1}, attacks=["dlg(iterations=2)"], evaluation=evaluation), tmp_path / "small")
    for part, seconds in (("trained", 1.0), ("attack-*", 10.0), ("identification-*", 100.0)):
        (file,) = (tmp_path / "small").glob(f"cells/*/{part}/part.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": seconds}))
    large = grid_of(shapes, **given, training={"epochs": 5}, attacks=["dlg(iterations=6)"],
                    evaluation={**evaluation, "checkpoints": [0, -1], "victims": 4})
    (cell,) = planning.planned(runner.identify(large, CPU), tmp_path / "nowhere", [tmp_path / "small"])
    assert (cell.state, cell.seconds) == ("to do", 5 * 1 + 2 * 2 * 3 * 10 + 2 * 2 * 100)
    assert execute(["plan", "--models-from", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2


def test_what_other_runs_have_is_taken_as_a_run_takes_it(shapes, tmp_path):
    """Whole cells with what was measured on them, or their models alone; not those that lack a checkpoint."""
    part, out = tmp_path / "part", tmp_path / "new"
    run(grid_of(shapes, defenses=["none"], seeds=[0]), part)
    whole = runner.identify(grid_of(shapes, seeds=[0]), CPU)
    with_results, with_models = planning.planned(whole, out, results_from=[part]), planning.planned(whole, out, models_from=[part])
    assert [cell.state for cell in with_results] == ["taken", "to do"] and [cell.state for cell in with_models] == ["begun", "to do"]
    assert with_models[0].seconds < with_results[0].seconds and planning.describe(with_results).splitlines()[-1].startswith("1 of 2 cells done")
    later = runner.identify(grid_of(shapes, seeds=[0], evaluation={**whole.grid.evaluation.model_dump(), "checkpoints": [0, 1, -1]}), CPU)
    assert [cell.state for cell in planning.planned(later, out, results_from=[part])] == ["to do", "to do"]
    assert not out.exists() and run(whole.grid, out, results_from=[part]).kept == 1


def test_the_command_has_the_options_of_run_and_changes_nothing(shapes, tmp_path, capsys):
    arguments = ["--dataset", str(shapes), "--model", "mlp", "--defense", "none", "--attack", "dlg(iterations=1)", "--epochs", "1",
                 "--victims", "2", "--observed", "single", "--candidates", "0", "--no-tuning", "--seed", "0", "--out", str(tmp_path / "run")]
    assert execute(["plan", *arguments, "--seed", "1"]) == 0
    assert "0 of 2 cells done" in capsys.readouterr().out and not (tmp_path / "run").exists()
    assert execute(["run", *arguments, "--seed", "1"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    assert execute(["plan", *arguments, "--seed", "1", "--seed", "2"]) == 0
    output = capsys.readouterr().out
    assert output.count("done  ") == 2 and re.search(r"to do +about 0:0", output) and "2 of 3 cells done; time left about 0:" in output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert all(cell.trained["seconds"] > 0 for cell in results.read_run(tmp_path / "run").cells)
    assert execute(["plan", "--preset", "nothing"]) == 2


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_clock(seconds, text):
    from benchmark.run.progress import clock
    assert clock(seconds) == text
