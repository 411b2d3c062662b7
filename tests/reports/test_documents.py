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
                    {("none", 0): [0.9, 0.8], ("weak", 0): [0.9, 0.1]}, candidates=50,
                    trials={name: [(1e-3, 64, 0.7, 0.1), (1e-2, 64, 0.6, math.nan), (3e-3, 32, 0.65, 0.2)] for name in ("none", "weak")})
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
    "boards.0.entries.0.attacks.0.recovered: must lie within [0, 1], got -1":
        lambda d: d["boards"][0]["entries"][0]["attacks"][0]["recovered"].update(mean=-1, low=-1),
    "boards.0.entries.0.attacks.0.asr: the mean must lie within its interval": lambda d: d["boards"][0]["entries"][0]["attacks"][0]["asr"].update(mean=0.0),
    "boards.0.entries.1: must stand in the order of the families, with the Pareto front marked; 'none' belongs here, on the front":
        lambda d: d["boards"][0]["entries"][1].update(pareto=not d["boards"][0]["entries"][1]["pareto"]),
    "boards.0.entries.0: must stand in the order of the families": lambda d: d["boards"][0]["entries"].reverse(),
    "boards.0.families.0: must be ranked; 'weak' belongs here, got 'none'": lambda d: d["boards"][0]["families"].reverse(),
    "boards.0.families.0.rank: the entries give 1, got 2": lambda d: d["boards"][0]["families"][0].update(rank=2),
    "boards.0.families.1.standings: the entries give [Standing(observed='single', safe=None":
        lambda d: d["boards"][0]["families"][1]["standings"][0].update(safe="none"),
    "boards.0.families.0.standings: ": lambda d: d["boards"][0]["families"][0]["standings"][0].update(estimated=False),
    "boards.0.families.0.free: the entries give FreePrivacy(defense='weak'": lambda d: d["boards"][0]["families"][0].update(free=None),
    "boards.0.families.0.leakage: the entries give 0.5, got 0.0": lambda d: d["boards"][0]["families"][0].update(leakage=0.0),
    "boards.0.families.0.at_chance: the entries give False, got True": lambda d: d["boards"][0]["families"][0].update(at_chance=True),
    "boards.0.families: each must be there once, and each entry in one of them": lambda d: d["boards"][0]["families"].pop(),
    "boards.0.families: each must be there once, and each entry ": lambda d: d["boards"][0]["families"][1].update(name="weak"),
    "boards.0.families: each must be there once, and each entry in one": lambda d: d["boards"][0]["families"][0]["defenses"].append("none"),
    "boards.0.entries.1.family: 'weak' does not have 'none'": lambda d: d["boards"][0]["entries"][1].update(family="weak"),
    "boards.0.protocol.thresholds: must be Thresholds(asr=0.05": lambda d: d["boards"][0]["protocol"]["thresholds"].update(asr=0.5),
    "boards.0.entries.0.validation: must be that of the trial that was chosen, got 0.9": lambda d: d["boards"][0]["entries"][0].update(validation=0.9),
    "boards.0.entries.0.validation: input should be less than or equal to 1": lambda d: d["boards"][0]["entries"][0].update(validation=1.5),
    "boards.0.entries.0.trials.0.validation_accuracy: input should be greater than or equal to 0":
        lambda d: d["boards"][0]["entries"][0]["trials"][0].update(validation_accuracy=-0.5),
    "boards.0.entries.0.trials.0.chosen: must mark the first of the best": lambda d: d["boards"][0]["entries"][0]["trials"][0].update(chosen=False),
    "boards.0.entries.0.trials.1.chosen: must mark the first of the best": lambda d: d["boards"][0]["entries"][0]["trials"][1].update(chosen=True),
    "boards.0.entries.0.trials.0.chosen: must mark": lambda d: d["boards"][0]["entries"][0]["trials"][2].update(validation_accuracy=0.8),
    "boards.0.entries.0.trials.2: not one of those of the protocol": lambda d: d["boards"][0]["entries"][0]["trials"][2].update(batch_size=8),
    "boards.0.entries.0.trials.1: not one of those of the protocol, or there twice":
        lambda d: d["boards"][0]["entries"][0]["trials"].insert(1, d["boards"][0]["entries"][0]["trials"][0]),
    "boards.0.entries.0: must be trained by adam, 0.001 and 64, got ('adam', 0.003, 64)": lambda d: d["boards"][0]["entries"][0].update(learning_rate=3e-3),
    "boards.0.entries.0.attacks.1.observed: '8' is not observed by the protocol": lambda d: d["boards"][0]["entries"][0]["attacks"][1].update(observed="8"),
    "boards.0.entries.0.attacks.1.batch_size: gradients 'single' are of 1 images here, got 8":
        lambda d: d["boards"][0]["entries"][0]["attacks"][1].update(batch_size=8),
    "boards.0.entries.0.identifications.0.batch_size: gradients 'single' are of 1":
        lambda d: d["boards"][0]["entries"][0]["identifications"][0].update(batch_size=2),
    "boards.0.entries.0.unidentified.0.observed: 'as-trained' is not observed":
        lambda d: d["boards"][0]["entries"][0]["unidentified"][0].update(observed="as-trained"),
    "boards.0.entries.1.defense: 'weak' is there twice": lambda d: d["boards"][0]["entries"][1].update(defense="weak"),
    "the document: input tag 'leakboard-entry/5' found using": lambda d: d.update(format="leakboard-entry/5"),
    "boards.0.undefended: 'absent' is no entry": lambda d: d["boards"][0].update(undefended="absent"),
    "boards.0.protocol.evaluation.knowledge: list should have at least 1 item": lambda d: d["boards"][0]["protocol"]["evaluation"].update(knowledge=[]),
    "boards.0.protocol.portfolio: input should be greater than or equal to 1": lambda d: d["boards"][0]["protocol"].update(portfolio=0),
    "boards.0.entries.1.attacks: of checkpoint 0, observed single, the worst case of informed attackers or the oracle bound is missing":
        lambda d: d["boards"][0]["entries"][1]["attacks"].pop(0),
    "boards.0.entries.0.attacks: of checkpoint 0, observed single, the worst case has a mean SSIM of 0.5, above that of the oracle bound, 0.4":
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


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("kind", ["entry", "leaderboard"])
def test_documents_of_the_formats_before_are_refused_in_one_line(tmp_path, kind, version):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"format": f"leakboard-{kind}/{version}", "boards": [], "runs": []}))
    with pytest.raises(InputError) as error:
        read_document(path)
    told = "which trained all defenses alike; submit again from a run of format 6"
    if version == 3:
        told = "whose worst case was another: the likeliest reconstruction of each victim; submit its run again"
    assert str(error.value) == f"{path} has format leakboard-{kind}/{version}, of an earlier version, {told}"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": "leakboard-entry/4"}'])
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
