"""The command as its user meets it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attacks
import defenses
from benchmark.catalogue import catalogue
from benchmark.cli import OK, execute
from benchmark.config import presets


def tiny(shapes: Path, out: Path) -> list[str]:
    return ["run", "--dataset", str(shapes), "--model", "mlp", "--epochs", "1", "--checkpoint", "0", "--victims", "2", "--observed", "single", "--candidates", "0", "--no-tuning",
            "--seed", "0", "--attack", "inverting-gradients(iterations=2)", "--out", str(out), "--device", "cpu"]


def test_run_then_run_again_then_report(shapes, tmp_path, capsys):
    command = [*tiny(shapes, tmp_path / "run"), "--defense", "none", "--defense", "noise(std=0.1)"]
    assert execute(command) == 0
    output = capsys.readouterr().out
    assert "2 cells finished, 0 kept, 0 failed" in output and "test accuracy" in output and "time left" in output
    assert f"report: {tmp_path / 'run' / 'report' / 'index.html'}" in output
    assert execute(command) == 0
    assert "0 cells finished, 2 kept, 0 failed" in capsys.readouterr().out
    assert execute(["report", str(tmp_path / "run"), "--out", str(tmp_path / "site")]) == 0
    names = {p.name for p in (tmp_path / "site").iterdir()}
    assert names >= {"index.html", "how-to-read.html", "defense-none.html", "assets", *(f"leaderboard.{end}" for end in ("md", "csv", "tex", "json"))}
    table = pd.read_csv(tmp_path / "site" / "leaderboard.csv")
    assert set(table["defense"]) == {"noise(std=0.1)", "none"} and set(table["kind"]) == {"attack", "worst case", "oracle bound"}


def test_grid_from_a_file(shapes, tmp_path, capsys):
    (tmp_path / "my grid.yaml").write_text(textwrap.dedent(f"""
        datasets: ["{shapes}"]
        models: [mlp]
        attacks: []
        training: {{epochs: 1}}
        evaluation: {{victims: 2, observed: [single], candidates: 0}}
    """))
    assert execute(["run", str(tmp_path / "my grid.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert "1 cells finished" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "--defense", "nose"], "did you mean 'noise'"),
    (["run", "--defense", "noise(std=-1)"], "std must be a number >= 0, got -1"),
    (["run", "--attack", "inverting"], "did you mean 'inverting-gradients'"),
    (["run", "--model", "lnet"], "did you mean 'lenet'"),
    (["run", "--dataset", "./absent.zip"], "does not exist"),
    (["run", "--preset", "quik"], "did you mean 'quick'"),
    (["run", "absent.yaml"], "cannot read the grid absent.yaml"),
    (["run", "absent.yaml", "--preset", "quick"], "not both"),
    (["run", "--device", "abacus"], "unknown device 'abacus'"),
    (["run", "--device", "meta"], "not supported"),
    (["run", "--epochs", "many"], "--epochs"),
    (["run", "--epochs", "-1"], "training.epochs"),
    (["run", "--candidates", "-1"], "evaluation.candidates"),
    (["plan", "--candidates", "1"], "evaluation.candidates: must be 0 (not measured) or at least 2, got 1"),
    (["run", "--defense", "noise(std=[])"], "defense 'noise(std=[])': the list of std is empty"),
    (["run", "--defense", "noise(std=[0.1])+pruning(p=[0.9])"], "has 2 lists, of std and p; a family is swept over one parameter"),
    (["run", "--attack", "dlg(iterations=[1, 2])"], "iterations takes one value here, got [1, 2]; only the defenses of a grid take lists"),
    (["run", "--model", "lenet(activation=[tanh])"], "activation takes one value here, got ['tanh']"),
    (["run", "--dataset", "mnist5k(x=[1])"], "x takes one value here, got [1]"),
    (["run", "--observed", "0"], "evaluation.observed.0"),
    (["plan", "--observed", "all"], "evaluation.observed.0"),
    (["run", "--observed", "4000"], "gradients of 4000 images cannot be observed (evaluation.observed)"),
    (["run", "--plugin", "absent.py"], "cannot read the plugin absent.py"),
    (["run", "--image-size", "32"], "an image size is for folders and zip files"),
    (["run", "--nonsense"], "--nonsense"),
    (["list", "defence"], "did you mean 'defenses'"),
    (["report", "."], "not a run folder"),
    (["report"], "runs"),
    (["rnu"], "rnu"),
])
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch, without_data_root):
    monkeypatch.chdir(tmp_path)
    assert execute(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("leakboard: error: ") and message in line
    assert captured.out == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "message"), [
    ("defenses:\n- noise(std=[])", "the list of std is empty"),
    ("attacks:\n- dlg(iterations=[1])", "iterations takes one value here"),
    ("tuning: {step_sizes: []}", "tuning.step_sizes"),
    ("tuning: on\ntraining: {learning_rate: 1e-2}", "training.learning_rate cannot be given where trainings are tuned, got 0.01"),
    ("tuning: {epochs: 11}", "tuning.epochs must be at most training.epochs = 10, got 11"),
    ("evaluation: {batch_size: 8}", "batch_size of earlier versions is now observed: [8], or as-trained"),
    ("tuning: {batch_sizes: [64, 4000]}", "gradients of 4000 images cannot be observed (evaluation.observed)"),
])
def test_a_grid_that_cannot_be_is_one_line_and_exit_code_2(text, message, capsys, tmp_path, monkeypatch, without_data_root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(text)
    assert execute(["run", "grid.yaml", "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("leakboard: error: ") and message in line and captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_cuda_without_cuda(capsys):
    assert execute(["run", "--device", "cuda"]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(("source", "message"), [
    ("import nothing_of_this_name", "fails to import: ModuleNotFoundError"),
    ("def f(:", "fails to import: SyntaxError"),
    ("raise SystemExit(0)", "fails to import: SystemExit"),
    ("x = 1", "defines no class derived from"),
    ("import defenses\nclass Mine(defenses.Defense): name = 'none'", "must be decorated"),
    ("import defenses\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\nclass M(defenses.Defense): name = 'none'", "taken"),
])
def test_a_broken_plugin_is_refused(source, message, tmp_path, capsys, clean_registry):
    (tmp_path / "mine.py").write_text(source)
    assert execute(["run", "--plugin", str(tmp_path / "mine.py"), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "run").exists()


def test_a_failed_cell_is_told_by_the_exit_code(shapes, tmp_path, capsys, clean_registry):
    (tmp_path / "mine.py").write_text(textwrap.dedent("""
        from dataclasses import dataclass
        from defenses import Defense

        @dataclass(frozen=True)
        class Broken(Defense):
            name = "broken"

            def transform_gradients(self, gradients, step):
                return {}
    """))
    arguments = [*tiny(shapes, tmp_path / "run"), "--plugin", str(tmp_path / "mine.py"), "--defense", "broken", "--defense", "none"]
    assert execute(arguments) == 1
    output = capsys.readouterr().out
    assert "FAILED: KeyError" in output and "1 cells finished, 0 kept, 1 failed" in output
    assert "KeyError" in (tmp_path / "run" / "report" / "leaderboard.md").read_text()


def test_the_version_is_that_of_the_package(capsys):
    assert execute(["--version"]) == OK
    assert capsys.readouterr().out == f"leakboard {version('leakboard')}\n"


def test_list_names_everything(capsys):
    assert execute(["list"]) == 0
    output = capsys.readouterr().out
    for name in [*defenses.registry.names(), *attacks.registry.names(), "mnist5k", "medical-mnist", "lenet", "torchvision:NAME", "quick"]:
        assert f"  {name}" in output
    assert execute(["list", "defenses"]) == 0
    assert "noise(std=0.01, distribution='gaussian')" in capsys.readouterr().out


@given(width=st.integers(0, 200))
def test_what_is_listed_fits_a_terminal(width):
    """But for words that are longer, and loses nothing."""
    whole, wrapped = catalogue(None), catalogue(None, width)
    assert wrapped.split() == whole.split()
    longest = max(len(word) for word in whole.split())
    assert max(map(len, wrapped.splitlines())) <= max(width, longest + 6)


def test_a_preset_is_listed_with_what_its_file_says_of_it(capsys):
    assert execute(["list", "presets"]) == OK
    said = capsys.readouterr().out
    assert said.count("\n  ") == 2 * len(presets()) and "Embedded digits and a LeNet" in said and "[mnist5k, " in said


def test_a_report_needs_no_torch(shapes, tmp_path, capsys):
    assert execute([*tiny(shapes, tmp_path / "run"), "--defense", "none"]) == 0
    script = textwrap.dedent("""
        import sys

        class NoTorch:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "torch":
                    raise ModuleNotFoundError("No module named 'torch'", name="torch")

        sys.meta_path.insert(0, NoTorch())
        from benchmark.cli import main
        main()
    """)
    run, entry, site = (str(tmp_path / name) for name in ("run", "entry.json", "site"))
    for arguments in (["report", run, "--out", site], ["submit", run, "--name", "a", "--out", entry], ["check", entry, "--run", run],
                      ["merge", entry, "--out", f"{site}-merged"]):
        finished = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120)
        assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "site" / "index.html").is_file() and (tmp_path / "site-merged" / "index.html").is_file()


def test_interrupting_keeps_and_explains(shapes, tmp_path, capsys, monkeypatch):
    from benchmark.run import runner

    def interrupt(plan, display, executor):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupt)
    assert execute(tiny(shapes, tmp_path / "run")) == 130
    assert "goes on from there" in capsys.readouterr().err
