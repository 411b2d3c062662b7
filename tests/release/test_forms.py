"""The forms for issues and the workflow are what their host reads. (No action is run here.)"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_is_required_of_one(path):
    form = yaml.safe_load(path.read_text())
    assert form.keys() == {"name", "description", "labels", "body"} and form["body"]
    ids = [element["id"] for element in form["body"]]
    assert len(set(ids)) == len(ids)
    for element in form["body"]:
        assert element["type"] in ("input", "textarea", "dropdown") and element["attributes"]["label"]
        assert element.keys() <= {"type", "id", "attributes", "validations"}
        assert ("options" in element["attributes"]) == (element["type"] == "dropdown")
        assert not ("render" in element["attributes"] and element["type"] != "textarea")
    assert any(element.get("validations", {}).get("required") for element in form["body"])


def test_forms_name_commands_that_there_are():
    from benchmark.cli import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    texts = [path.read_text() for path in (ROOT / ".github").rglob("*") if path.suffix in (".yml", ".md")]
    named = {name for text in texts for name in re.findall(r"leakboard ([a-z]+)", text)}
    assert {"submit", "check", "reproduce"} <= named <= commands


def test_the_workflow_checks_every_python_that_the_project_names():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert versions == [f"3.{minor}" for minor in range(int(oldest), 14)]
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"test", "docs", "examples", "dist"} == {target for line in runs for target in re.findall(r"^make (\w+)", line)}
