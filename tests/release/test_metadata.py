"""What the project says of itself is said once, and is so."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")

ROOT = Path(__file__).parents[2]
PACKAGES = ("attacks", "benchmark", "defenses", "reports")
CODE = [ROOT / "_leakboard.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_written_once():
    own = project()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", own)
    written = [path for path in CODE if re.search(rf"(?<![\d.]){re.escape(own)}(?![\d.])", path.read_text())]
    assert not written and "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # Where it was installed from; an editable install is made anew by make when pyproject.toml has changed.
    assert version("leakboard") == own


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"_leakboard", *PACKAGES}


def test_what_is_imported_is_required():
    extras = {name: lines for name, lines in project()["optional-dependencies"].items() if name != "test"}
    told = {canonicalize_name(Requirement(line).name) for lines in (project()["dependencies"], *extras.values()) for line in lines}
    by_module = packages_distributions()
    for path in CODE:
        for module in imported(path):
            distributions = {canonicalize_name(name) for name in by_module.get(module, [module])}
            assert distributions & told, f"{path.relative_to(ROOT)} imports {module}, of {sorted(distributions)}, which the project does not require"


def test_bounds_of_what_is_required_are_lower_ones_alone():
    for line in project()["dependencies"]:
        assert [spec.operator for spec in Requirement(line).specifier] == [">="], line


def test_each_package_tells_that_it_is_typed():
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)
