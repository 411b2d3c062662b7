"""What the wheel and the sdist hold, and that the wheel works where the repository is not; ``make dist`` builds them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGES = ("attacks", "benchmark", "defenses", "reports")

pytestmark = pytest.mark.skipif("LEAKBOARD_DIST" not in os.environ, reason="needs LEAKBOARD_DIST, which make dist sets")


def built(pattern: str) -> Path:
    (found,) = (ROOT / os.environ["LEAKBOARD_DIST"]).glob(pattern)
    return found


@pytest.fixture(scope="module")
def wheel():
    with zipfile.ZipFile(built("*.whl")) as file:
        yield file


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def tracked(*patterns: str) -> set[str]:
    """Files of the repository under version control."""
    return set(subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())


def test_the_wheel_has_all_code_and_what_it_reads_and_nothing_else(wheel):
    expected = {"_leakboard.py"}
    for package in PACKAGES:
        expected |= tracked(f"{package}/*.py") | {f"{package}/py.typed"}
    expected |= tracked("attacks/engine/kernels/*.c", "benchmark/presets/*.yaml", "reports/templates/*", "reports/schemas/*")
    assert {"attacks/engine/kernels/products.c", "benchmark/presets/quick.yaml", "benchmark/presets/claims/precode.yaml",
            "reports/templates/base.html.j2", "reports/schemas/entry.schema.json"} <= expected
    about = {name for name in wheel.namelist() if ".dist-info/" in name}
    assert set(wheel.namelist()) - about == expected
    assert {name.partition("/")[2] for name in about} == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}


def test_the_sdist_has_the_tests_and_examples_besides_and_no_results():
    with tarfile.open(built("*.tar.gz")) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    needed = tracked("tests", "examples", "*.py", "Makefile", "pyproject.toml", "constraints.txt", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff")
    assert not needed - names
    assert not [name for name in names if name.startswith(("runs/", "site/", "reports/published/", ".venv", "build/")) or name.endswith((".parquet", ".safetensors"))]


def test_the_wheel_says_what_the_project_says(metadata):
    project = pytest.importorskip("tomllib", reason="of Python 3.11").loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["Version"] == project["version"] and metadata["Name"] == "leakboard"
    required = {str(Requirement(line)) for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert required == {str(Requirement(line)) for line in project["dependencies"]}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The Python of a fresh environment in which the wheel is installed; what it depends on is taken from this one."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=True)
    bin_ = folder / ("Scripts" if os.name == "nt" else "bin")
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)}, scheme="venv" if sys.version_info >= (3, 11) else None)
    # Of a path file nothing is run that lies there, so that an editable install of the repository is not found by it.
    (Path(paths["purelib"]) / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    subprocess.run([bin_ / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", built("*.whl")],
                   check=True, env=own)
    return bin_, own


def test_the_wheel_is_what_is_imported_and_runs_a_preset_outside_of_the_repository(environment, tmp_path):
    bin_, own = environment

    def run(*command: str) -> str:
        finished = subprocess.run([str(bin_ / command[0]), *command[1:]], cwd=tmp_path, env={**own, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    where = run("python", "-c", f"import _leakboard, {', '.join(PACKAGES)}; print(*(m.__file__ for m in (_leakboard, {', '.join(PACKAGES)})), sep='\\n')")
    assert len(where.split()) == 5 and all(Path(path).is_relative_to(bin_.parent) for path in where.split())
    assert "quick" in run("leakboard", "list", "presets")
    # All that the quick preset does, on fewer victims and one epoch; the whole of it takes minutes.
    output = run("leakboard", "run", "--preset", "quick", "--epochs", "1", "--no-tuning", "--victims", "2", "--candidates", "5", "--defense", "none", "--defense",
                 "noise(std=0.1)", "--attack", "inverting-gradients(iterations=5)", "--device", "cpu", "--threads", "1", "--out", "run")
    assert "2 cells finished, 0 kept, 0 failed" in output
    board = (tmp_path / "run" / "report" / "leaderboard.md").read_text()
    assert "noise(std=0.1)" in board and (tmp_path / "run" / "report" / "index.html").is_file()
    run("leakboard", "submit", "run", "--name", "mine", "--out", "entry.json")
    run("leakboard", "check", "entry.json", "--run", "run")
