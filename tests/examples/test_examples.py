"""What lies in examples/ does what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tmp_path):
    """Runs a file of a copy of the examples, with ``leakboard`` and ``python`` being those of this repository."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("runs", "*.safetensors", "suspects", "rebuilt", "__pycache__"))
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, command in (("python", f'exec "{sys.executable}" "$@"'), ("leakboard", f'exec "{sys.executable}" -m _leakboard "$@"')):
        (commands / name).write_text(f"#!/usr/bin/env bash\n{command}\n")
        (commands / name).chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent), "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}

    def run(*command: str) -> str:
        finished = subprocess.run(command, cwd=tmp_path / "examples", env=environment, capture_output=True, text=True, timeout=400)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run


def test_an_own_loop_trains_and_leaks(run):
    error, rank, accuracy = (float(line.rpartition(" ")[2]) for line in run("python", "own_loop.py").splitlines())
    assert error < 0.02 and rank == 1 and accuracy > 0.95


@pytest.mark.slow
def test_plugins_of_each_kind_are_measured_beside_the_built_in_ones(run, tmp_path):
    output = run("plugins/run.sh", "runs/mine")
    assert "3 cells finished, 0 kept, 0 failed" in output
    board = (tmp_path / "examples" / "plugins" / "runs" / "mine" / "report" / "leaderboard.md").read_text()
    assert all(name in board for name in ("narrow(width=32)", "rounded(width=0.01)", "squares(iterations=100", "analytic"))


def test_the_image_behind_a_captured_gradient_is_found_and_rebuilt(run, tmp_path):
    import numpy as np
    from PIL import Image

    from benchmark.measure.metrics import ssim

    output = run("captured/audit.sh")
    assert "victim 0, label 7: 3.png" in output and "exact: no attacker does better" in output
    folder = tmp_path / "examples" / "captured"
    original, rebuilt = (np.asarray(Image.open(folder / name))[None] / 255 for name in ("suspects/3.png", "rebuilt/victim-0-image-0.png"))
    assert ssim(original, rebuilt) > 0.9


@pytest.mark.parametrize("script", sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("**/*.sh")))
def test_shell_files_can_be_read_and_run(script):
    assert os.access(EXAMPLES / script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], cwd=EXAMPLES, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("script", ["cluster/slurm.sh", "cluster/ray.sh"])
def test_options_of_the_cluster_commands_are_those_of_leakboard(script):
    import inspect

    from benchmark.cli import run

    (line,) = [line for line in (EXAMPLES / script).read_text().splitlines() if line.startswith("leakboard run")]
    options = {word[2:].replace("-", "_") for word in line.split() if word.startswith("--")}
    assert {"executor", "ray_address", "out"} <= options <= inspect.signature(run).parameters.keys()


def test_every_example_is_named_in_the_readme_of_the_examples():
    readme = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__") and f"]({path.name})" not in readme] == []
