"""What a user reads whose own files have the names of our packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a folder, where ours are installed behind whatever is beside the script; without PYTHONPATH these would hide all."""
    # A path file of a site is read after the script's folder, as for any package that is installed.
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(ROOT)!r})\n")
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def taken(folder: Path, name: str, form: str) -> Path:
    """A file, or a package, of a user's own."""
    path = folder / (f"{name}.py" if form == "file" else name)
    if form == "file":
        path.write_text("mine = 1\n")
    else:
        path.mkdir()
        (path / "__init__.py").write_text("mine = 1\n")
    return path


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize(("name", "line"), [
    ("attacks", "from benchmark.data.datasets import load"), ("defenses", "from attacks import InvertingGradients"),
    ("benchmark", "from reports.site import write_report"), ("attacks", "import attacks\nfrom benchmark import models")])
def test_a_script_beside_a_file_or_folder_of_such_a_name_is_told_both_paths(tmp_path, name, line, form):
    theirs = taken(tmp_path, name, form)
    (tmp_path / "script.py").write_text(line + "\n")
    finished = python(tmp_path, "script.py")
    last = finished.stderr.splitlines()[-1]
    assert finished.returncode == 1 and last.startswith("_leakboard.NameCollision: ")
    assert f"the name {name!r} is taken" in last and str(theirs.resolve()) in last and str(ROOT / name) in last
    assert "rename" in last


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize("name", ["attacks", "benchmark", "defenses", "reports"])
def test_the_command_says_it_in_one_line_with_exit_code_2(tmp_path, name, form):
    theirs = taken(tmp_path, name, form)
    finished = python(tmp_path, "-m", "_leakboard", "list")
    (line,) = finished.stderr.splitlines()
    assert finished.returncode == 2 and finished.stdout == ""
    assert line.startswith(f"leakboard: error: the name {name!r} is taken") and str(theirs.resolve()) in line and str(ROOT / name) in line


def test_who_does_not_use_what_is_hidden_is_left_alone(tmp_path):
    taken(tmp_path, "attacks", "folder")
    taken(tmp_path, "benchmark", "file")
    (tmp_path / "script.py").write_text("import attacks, benchmark\nfrom defenses import PRECODE\nprint(attacks.mine, benchmark.mine, PRECODE.name)\n")
    assert python(tmp_path, "script.py").stdout == "1 1 precode\n"


def test_a_folder_without_code_hides_nothing_of_an_installed_package(tmp_path):
    (tmp_path / "attacks").mkdir()
    (tmp_path / "script.py").write_text("import benchmark\nprint(benchmark.__file__)\n")
    assert python(tmp_path, "script.py").stdout.strip() == str(ROOT / "benchmark" / "__init__.py")
