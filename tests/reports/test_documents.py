"""The JSON documents: schema, round trip, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from report_cases import write_run

import reports
from benchmark.errors import InputError
from reports.documents import Leaderboard, read_document, schemas
from reports.site import write_report
from reports.statistics import Estimate
from reports.submission import submit

SCHEMAS = Path(reports.__file__).parent / "schemas"


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entry")
    run = write_run(folder / "run", {("none", 0): [0.1, 0.7, 0.8], ("weak", 0): [0.1, 0.2, 0.79]},
                    {("none", 0): [0.9, 0.8], ("weak", 0): [0.9, 0.1]}, candidates=50)
    submit(run, "Mine", "https://example.org/paper", folder / "entry.json")
    write_report([run], folder / "site")
    return folder


def test_schemas_in_the_package_are_those_of_the_code():
    """Made by reports.other_forms.write_schemas."""
    assert {path.name: json.loads(path.read_text()) for path in SCHEMAS.iterdir()} == schemas()


def test_documents_fulfil_their_schemas(entry):
    for document, schema in ((entry / "entry.json", "entry"), (entry / "site" / "leaderboard.json", "leaderboard")):
        validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{schema}.schema.json").read_text()))
        validator.validate(json.loads(document.read_text()))
        broken = json.loads(document.read_text())
        del broken["boards"][0]["entries"][0]["defense"]
        assert not validator.is_valid(broken)
        read_document(document)


def test_infinite_estimates_survive():
    adapter = TypeAdapter(Estimate)
    text = adapter.dump_json(Estimate(math.inf, 1.0, math.inf))
    assert json.loads(text) == {"mean": "Infinity", "low": 1.0, "high": "Infinity"}
    assert adapter.validate_json(text) == Estimate(math.inf, 1.0, math.inf)
    for wrong in ('{"mean": NaN, "low": null, "high": null}', '{"mean": "a", "low": null, "high": null}'):
        with pytest.raises(ValueError, match="number"):
            adapter.validate_json(wrong)


WRONG = {
    "boards.0.entries.0.accuracy.mean: input should be a valid number, got 'high'":
        lambda d: d["boards"][0]["entries"][0]["accuracy"].update(mean="high"),
    "boards.0.entries.1.seeds: input should be greater than or equal to 0, got -1": lambda d: d["boards"][0]["entries"][1].update(seeds=-1),
    "boards.0.protocol.evaluation.victims: field required": lambda d: d["boards"][0]["protocol"]["evaluation"].pop("victims"),
    "boards.0.entries.0.cheats: unexpected keyword argument, got True": lambda d: d["boards"][0]["entries"][0].update(cheats=True),
    "paper: string should match pattern": lambda d: d.update(paper="javascript:alert(1)"),
    "name: string should match pattern": lambda d: d.update(name="  "),
    "runs.0.tables_sha256: string should match pattern": lambda d: d["runs"][0].update(tables_sha256="x"),
    "boards.0.entries.0.attacks.0.asr: must lie within [0, 1], got 2": lambda d: d["boards"][0]["entries"][0]["attacks"][0]["asr"].update(mean=2, high=2),
    "boards.0.entries.0.attacks.0.asr: the mean must lie within its interval": lambda d: d["boards"][0]["entries"][0]["attacks"][0]["asr"].update(mean=0.0),
    "boards.0.entries.0: must be ranked by worst-case ASR": lambda d: d["boards"][0]["entries"][0].update(rank=2),
    "boards.0.entries.1: must be ranked by": lambda d: d["boards"][0]["entries"][1].update(pareto=not d["boards"][0]["entries"][1]["pareto"]),
    "boards.0.entries.1.defense: 'weak' is there twice": lambda d: d["boards"][0]["entries"][1].update(defense="weak"),
    "the document: input tag 'leakboard-entry/3' found using": lambda d: d.update(format="leakboard-entry/3"),
    "boards.0.undefended: 'absent' is no entry": lambda d: d["boards"][0].update(undefended="absent"),
    "boards.0.protocol.evaluation.knowledge: list should have at least 1 item": lambda d: d["boards"][0]["protocol"]["evaluation"].update(knowledge=[]),
    "boards.0.protocol.portfolio: input should be greater than or equal to 1": lambda d: d["boards"][0]["protocol"].update(portfolio=0),
    "boards.0.entries.1.attacks: of checkpoint 0 the worst case of informed attackers or the oracle bound is missing":
        lambda d: d["boards"][0]["entries"][1]["attacks"].pop(0),
    "boards.0.entries.0.attacks: of checkpoint 0 the worst case has a mean SSIM of 0.5, above that of the oracle bound, 0.4":
        lambda d: d["boards"][0]["entries"][0]["attacks"][2].update(ssim={"mean": 0.4, "low": 0.1, "high": 0.9}),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_said_with_its_field(entry, tmp_path, message):
    document = json.loads((entry / "entry.json").read_text())
    assert [e["defense"] for e in document["boards"][0]["entries"]] == ["weak", "none"]
    WRONG[message](document)
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as error:
        read_document(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["entry", "leaderboard"])
def test_documents_of_the_format_before_are_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"format": f"leakboard-{kind}/1", "boards": [], "runs": []}))
    with pytest.raises(InputError) as error:
        read_document(path)
    assert str(error.value) == (f"{path} has format leakboard-{kind}/1, whose worst case was chosen by looking at the originals; "
                                "submit again from a run of format 5")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": "leakboard-entry/2"}'])
def test_what_is_no_document_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json: "):
        read_document(tmp_path / "x.json")


def places(value, path=()):
    """Paths to all values of a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


junk = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2),
                 st.dictionaries(st.text(max_size=5), st.integers(), max_size=2))


@given(data=st.data())
def test_any_change_of_an_entry_ends_in_success_or_one_line(entry, data):
    document = json.loads((entry / "entry.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([p for p in places(document) if p]))
        target = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = data.draw(junk)
        document = copy.deepcopy(document)
    path = entry / "fuzzed.json"
    path.write_text(json.dumps(document))
    try:
        read = read_document(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in " ".join(str(error).split())
    else:
        assert read.boards and not isinstance(read, Leaderboard)
