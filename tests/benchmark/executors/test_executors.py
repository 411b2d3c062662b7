"""Cells on a cluster of Ray give the tables of a serial run, whatever happens to its machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from run_cases import CPU, Silent, comparable, grid_of, run, stop_by_ctrl_c, trials, tuned_grid_of

from benchmark import executors, plugins
from benchmark.cli import execute
from benchmark.errors import InputError
from benchmark.run import runner
from benchmark.store import results

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
import losing_a_machine  # noqa: E402  (needs Ray)
from ray_cases import run_by_ray, two_machines  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    with two_machines() as made:
        yield made


def serial(grid, out):
    with executors.create("serial", threads=1) as executor:
        return run(grid, out, executor=executor)


def same_tables(first, second):
    for one, other in zip(comparable(first), comparable(second), strict=True):
        pd.testing.assert_frame_equal(one, other)


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from torch import nn
from benchmark.models import Model
from defenses import Defense

@dataclass(frozen=True)
class Thin(Model):
    name: ClassVar[str] = "thin"

    def build(self, image_shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], classes))

@dataclass(frozen=True)
class Halved(Defense):
    name: ClassVar[str] = "halved"
    summary: ClassVar[str] = "half the gradient"

    def transform_gradients(self, gradients, step):
        return {name: g / 2 for name, g in gradients.items()}

@dataclass(frozen=True)
class Broken(Defense):
    name: ClassVar[str] = "broken"
    summary: ClassVar[str] = "raises"

    def transform_gradients(self, gradients, step):
        raise RuntimeError("out of\\nluck")
"""


@pytest.fixture
def loaded(tmp_path, clean_registry):
    (tmp_path / "mine.py").write_text(PLUGIN)
    return plugins.read(tmp_path / "mine.py")


def test_a_machine_that_is_lost_in_the_middle(shapes, tmp_path):
    """The tables are those of a serial run; data sets are stored once; what arrived before the loss is not measured again. Should Ray
    end the run with the machine, the same command goes on."""
    command = [sys.executable, str(Path(losing_a_machine.__file__)), str(shapes), str(tmp_path / "ray")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    runs = [subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)]
    if runs[0].returncode != 0:
        runs.append(subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment))
    assert runs[-1].returncode == 0, "\n".join(each.stderr[-2000:] for each in runs)
    told = json.loads(runs[-1].stdout.splitlines()[-1])
    grid = losing_a_machine.grid(shapes)
    assert told["outcome"]["kept"] + told["outcome"]["finished"] == 8 and told["outcome"]["failed"] == 0
    assert told["stored"] == 1
    if len(runs) == 1:
        assert len(told["written"]) == len(set(map(tuple, told["written"]))) == 16
        assert set(told["cells"]) == {spec.name for spec in runner.identify(grid, CPU).cells.values()}
    serial(grid, tmp_path / "serial")
    same_tables(tmp_path / "ray", tmp_path / "serial")


def test_a_training_the_identification_and_each_attack_are_tasks_of_their_own(shapes, tmp_path, cluster, monkeypatch):
    from benchmark.executors import ray as ray_executor
    given, made = [], ray_executor._Tasks.__init__

    def noted(self, submit, *arguments):
        def submitted(todo):
            given.append((todo.weights is None, [of.attack for of in todo.attacks.values()], bool(todo.identifications)))
            return submit(todo)

        made(self, submitted, *arguments)

    monkeypatch.setattr(ray_executor._Tasks, "__init__", noted)
    labels = ["inverting-gradients(iterations=3)", "dlg(iterations=2)", "idlg(iterations=2)"]
    grid = grid_of(shapes, defenses=["none"], seeds=[0], attacks=labels,
                   evaluation={"checkpoints": [0, -1], "victims": 3, "observed": [2], "candidates": 5})
    display = Silent()
    assert run_by_ray(grid, tmp_path / "ray", cluster.address, display).finished == 1
    assert given[:2] == [(True, [], False), (False, [], True)]
    assert sorted(given[2:]) == sorted((False, [label], False) for label in labels)
    assert all(0 <= share <= 1 for share in display.shares)
    serial(grid, tmp_path / "serial")
    same_tables(tmp_path / "ray", tmp_path / "serial")


def test_a_tuned_grid_gives_the_same_trials_and_choices(shapes, tmp_path, cluster, loaded):
    """One that fails, too, and a defense of a plugin."""
    grid = tuned_grid_of(shapes, defenses=["noise(std=[0.01, 0.1])", "broken", "halved"], seeds=[0], attacks=[],
                         tuning={"step_sizes": [1e-3, 1e-2], "batch_sizes": [8]},
                         evaluation={"checkpoints": [-1], "victims": 2, "observed": ["as-trained"], "candidates": 0})
    outcome = run_by_ray(grid, tmp_path / "ray", cluster.address, loaded=[loaded])
    assert outcome == runner.Outcome(kept=0, finished=3, failed=1)
    with executors.create("serial", threads=1) as executor:
        assert run(grid, tmp_path / "serial", executor=executor, plugins=[loaded]) == outcome
    pd.testing.assert_frame_equal(trials(tmp_path / "ray"), trials(tmp_path / "serial"))
    same_tables(tmp_path / "ray", tmp_path / "serial")
    failures = [{failure["error"] for failure in results.read_run(tmp_path / name).failures.values()} for name in ("ray", "serial")]
    assert failures[0] == failures[1] and len(failures[0]) == 2


def test_both_machines_work_a_failing_cell_stops_no_other_and_plugins_travel(shapes, tmp_path, cluster, loaded):
    grid = grid_of(shapes, models=["thin"], defenses=["none", "broken", "halved"])
    assert run_by_ray(grid, tmp_path / "run", cluster.address, loaded=[loaded]) == runner.Outcome(kept=0, finished=4, failed=2)
    failures = list(results.read_run(tmp_path / "run").failures.values())
    assert {failure["error"] for failure in failures} == {"RuntimeError: out of luck"} and "transform_gradients" in failures[0]["traceback"]
    (tmp_path / "run" / "run.json").unlink()
    assert run(grid, tmp_path / "serial", plugins=[loaded]).failed == 2


def test_a_cell_whose_process_is_lost_each_time_is_given_up(shapes, tmp_path, cluster, loaded, monkeypatch):
    from benchmark.executors import ray as ray_executor

    monkeypatch.setattr(ray_executor, "_RETRIES", 1)
    source = loaded.source.decode().replace('raise RuntimeError("out of\\nluck")', "import os; os._exit(1)")
    (tmp_path / "deadly.py").write_text(source.replace("halved", "halved2").replace('"broken"', '"deadly"').replace('"thin"', '"thin2"'))
    deadly = plugins.read(tmp_path / "deadly.py")
    outcome = run_by_ray(grid_of(shapes, defenses=["deadly", "none"], seeds=[0]), tmp_path / "run", cluster.address, loaded=[deadly])
    assert outcome == runner.Outcome(kept=0, finished=1, failed=1)
    (failure,) = results.read_run(tmp_path / "run").failures.values()
    assert failure["error"].startswith("the process of the cell was lost 2 times")


def test_ctrl_c_stops_ray(shapes, tmp_path):
    code, error, _ = stop_by_ctrl_c(shapes, tmp_path / "run", "--executor", "ray", "--threads", "1")
    assert code == 130 and "what is finished is kept" in error, error


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "slurm"}, "unknown executor 'slurm'; expected serial or ray"),
    ({"name": "serial", "ray_address": "auto"}, "are for --executor ray"),
    ({"name": "serial", "threads": 0}, "--threads must be 1 to 1024, got 0"),
    ({"name": "ray", "gpus_per_cell": 1.5}, r"must be a share of a GPU, in \(0, 1\], or a whole number, got 1.5"),
])
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        executors.create(**arguments)


def test_what_the_cluster_does_not_have_is_said(shapes, tmp_path, cluster):
    with executors.create("ray", ray_address=cluster.address, threads=3) as executor:
        with pytest.raises(InputError, match="no machine of the Ray cluster has a GPU"):
            executor.device("cuda")
        with pytest.raises(InputError, match="cannot be chosen with --executor ray"):
            executor.device("cuda:1")
        assert executor.device("auto") == CPU
        plan = runner.prepare(grid_of(shapes), tmp_path / "run", CPU)
        with pytest.raises(InputError, match="no machine of the Ray cluster has 3 CPUs"):
            runner.run(plan, Silent(), executor)


def test_a_cluster_that_is_not_there():
    with pytest.raises(InputError, match="cannot reach the Ray cluster"), executors.create("ray", ray_address="127.0.0.1:1"):
        pass


def test_cells_of_a_machine_with_gpus_take_one_each(monkeypatch):
    """What is asked of Ray, without a GPU: a share of one for each cell."""
    from benchmark.executors import ray as ray_executor
    asked = []
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 4.0})
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray_executor._ON_A_GPU, "options", lambda **options: asked.append(options))
    monkeypatch.setattr(ray_executor._Tasks, "run", lambda self, keys: asked.append(self._places()))
    import torch
    executors.create("ray", gpus_per_cell=0.5, threads=6).run([], None, {}, torch.device("cuda"), [], None)
    assert asked == [{"num_cpus": 1, "num_gpus": 0.5, "max_retries": 0}, 8 + 1]
    with pytest.raises(InputError, match="has 8 GPUs, which a cell takes; give fewer --gpus-per-cell"):
        executors.create("ray", gpus_per_cell=8.0).run([], None, {}, torch.device("cuda"), [], None)


ON_A_GPU = """
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
import torch
from defenses import Defense

@dataclass(frozen=True)
class Same(Defense):
    name: ClassVar[str] = "same"
    summary: ClassVar[str] = "changes nothing"

def choose(name):
    with Path({places!r}).open("a") as file:
        file.write(f"{{name}} {{os.getpid()}} {{os.environ['CUDA_VISIBLE_DEVICES']}}\\n")
    return torch.device("cpu")

if os.getpid() != {here}:
    from benchmark.measure import device
    device.choose = choose
"""


def test_a_process_of_a_gpu_works_on_one_task(shapes, tmp_path):
    """On machines that say they have GPUs, where cells are measured on the CPU all the same."""
    places = tmp_path / "places"
    (tmp_path / "plugin.py").write_text(ON_A_GPU.format(places=str(places), here=os.getpid()))
    plugin = plugins.read(tmp_path / "plugin.py")
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False})
    try:
        with executors.create("ray", ray_address=made.address, threads=1) as executor:
            plan = runner.prepare(grid_of(shapes, defenses=["same"], seeds=[0]), tmp_path / "run", executor.device("cuda"),
                                  load_on=executor.loads_on, plugins=[plugin])
            outcome = runner.run(plan, Silent(), executor)
    finally:
        made.shutdown()
    assert outcome.failed == 0
    lines = [line.split() for line in places.read_text().splitlines()]
    names, processes, gpus = zip(*lines, strict=True)
    assert len(lines) > 1 and set(names) == {"cuda"} and set(gpus) == {"0"}
    assert len(set(processes)) == len(lines)


def test_a_command_runs_on_ray_and_then_finds_all_done(shapes, tmp_path, capsys):
    command = [sys.executable, "-c", "from benchmark.cli import main; main()", "run", "--dataset", str(shapes), "--model", "mlp",
               "--defense", "none", "--epochs", "1", "--victims", "2", "--observed", "single", "--no-tuning", "--attack", "dlg(iterations=1)", "--seed", "0", "--seed", "1",
               "--threads", "1", "--out", str(tmp_path / "run")]
    first = subprocess.run([*command, "--executor", "ray"], capture_output=True, text=True, timeout=120)
    assert first.returncode == 0 and "2 cells finished, 0 kept, 0 failed" in first.stdout, first.stderr
    assert "ray" not in first.stderr.lower(), first.stderr
    assert execute(command[3:]) == 0
    assert "0 cells finished, 2 kept, 0 failed" in capsys.readouterr().out
