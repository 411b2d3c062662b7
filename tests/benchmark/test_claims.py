"""Claims as they are read, and as grids."""

from __future__ import annotations

import pytest

from benchmark import claims
from benchmark.cli import execute
from benchmark.errors import InputError
from benchmark.run import claiming

FILE = {
    "name": "mine", "source": "A, 2020", "statement": "it holds", "reported": "0 %", "verified": True, "protocol": "theirs",
    "departures": "ours", "comparable": True, "expects": [{"figure": "asr", "of": "noise(std=0.1)", "at_most": 0.1}],
    "grid": {"defenses": ["none", "noise(std=0.1)"], "evaluation": {"observed": ["single"]}}}


def claim_of(**changes):
    return claims.make({**FILE, **changes}, "mine.yaml")


@pytest.mark.parametrize("name", claims.names())
def test_every_claim_of_the_package_is_one_with_a_grid_that_shows_all_of_its_figures(name):
    claim = claims.load(name)
    assert claim.name == name and claim.headline
    named, grid = claiming.with_grid(claim)
    assert grid.name == name and len(grid.seeds) >= 3 and "none" in grid.points
    assert {measure.of for measure in named.measures} <= set(grid.points)


@pytest.mark.parametrize(("changes", "message"), [
    ({"sources": "x"}, "sources: extra inputs are not permitted"),
    ({"verified": "yes"}, "verified: input should be a valid boolean"),
    ({"name": "report"}, "name must be another than 'report'"),
    ({"name": "a/b"}, "name: string should match pattern"),
    ({"expects": []}, "expects: list should have at least 1 item"),
    ({"expects": [{"figure": "asr", "of": "none"}]}, "expects.0: either at_most or at_least must be given, got None and None"),
    ({"expects": [{"figure": "asr", "of": "none", "at_most": 1, "at_least": 0}]}, "expects.0: either at_most or at_least must be"),
    ({"expects": [{"figure": "asr", "of": "none", "at_most": float("nan")}]}, "expects.0.at_most: input should be a finite number"),
    ({"expects": [{"figure": "psnr", "of": "none", "at_most": 1}]}, "expects.0.figure: input should be 'asr', 'top-1'"),
    ({"expects": [{"figure": "asr", "of": "none", "against": "none", "at_most": 1}]}, "against must be given for mse-ratio and nothing else"),
    ({"beside": [{"figure": "mse-ratio", "of": "none"}]}, "beside.0: against must be given for mse-ratio"),
])
def test_what_is_wrong_with_a_claim_is_said(changes, message):
    with pytest.raises(InputError) as error:
        claim_of(**changes)
    assert str(error.value).startswith("mine.yaml: ") and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"grid": {"defenses": ["nose"]}}, "defenses: unknown defense 'nose'; did you mean 'noise'?"),
    ({"grid": {**FILE["grid"], "models": ["lenet", "mlp"]}}, "must have one data set, one model and one number of images"),
    ({"grid": {"defenses": ["none"]}}, "must have one data set, one model and one number of images"),
    ({"expects": [{"figure": "asr", "of": "noise(std=0.2)", "at_most": 0.1}]}, "unknown defense of its grid 'noise(std=0.2)'; did you mean"),
    ({"expects": [{"figure": "asr", "of": "noise(std=-1)", "at_most": 0.1}]}, "std must be a number >= 0, got -1"),
    ({"grid": {**FILE["grid"], "attacks": []}}, "asr needs attacks"),
    ({"grid": {**FILE["grid"], "evaluation": {"observed": ["single"], "candidates": 0}}, "beside": [{"figure": "top-1", "of": "none"}]},
     "top-1 needs evaluation.candidates"),
    ({"grid": {**FILE["grid"], "evaluation": {"observed": ["single"], "knowledge": ["blind"]}}}, "evaluation.knowledge lacks informed"),
    ({"grid": {**FILE["grid"], "defenses": ["noise(std=0.1)"]}, "beside": [{"figure": "change", "of": "noise(std=0.1)"}]}, "change needs the defense none"),
])
def test_a_grid_must_be_able_to_show_its_figures(changes, message):
    with pytest.raises(InputError) as error:
        claiming.with_grid(claim_of(**changes))
    assert str(error.value).startswith("claim mine: ") and message in str(error.value)


def test_defenses_get_the_names_that_they_have_in_results():
    measures = [{"figure": "mse-ratio", "of": "noise", "against": " none ", "at_least": 2}]
    claim, grid = claiming.with_grid(claim_of(expects=measures, grid={**FILE["grid"], "defenses": ["none", "noise"]}))
    assert (claim.expects[0].of, claim.expects[0].against) == ("noise(std=0.01)", "none") and set(grid.points) == {"noise(std=0.01)", "none"}


@pytest.mark.parametrize(("arguments", "message"), [
    (["--claim", "prcode"], "unknown claim 'prcode'; did you mean 'precode'"),
    (["--claim", "absent.yaml"], "cannot read the claim absent.yaml"),
    (["--claim", "noise", "--claim", "mine.yaml"], "two claims have the name 'noise'"),
])
def test_claims_that_cannot_be_are_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("\n".join(f"{key}: {value!r}" for key, value in {**FILE, "name": "noise"}.items()).replace("True", "true"))
    assert execute(["claims", *arguments, "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("leakboard: error: ") and message in line and captured.out == "" and not (tmp_path / "runs").exists()


def test_a_claim_of_the_package_is_run_and_judged_end_to_end_and_goes_on(shapes, tmp_path, capsys):
    """On tiny images, of which few are attacked, by its own file."""
    import json

    import yaml
    claim = claims.load("pruning").model_dump(mode="json")
    claim["grid"] |= {"datasets": [str(shapes)], "seeds": [0, 1], "attacks": ["inverting-gradients(iterations=3)"],
                      "training": {"epochs": 1, "batch_size": 8},
                      "evaluation": {"checkpoints": [0], "victims": 2, "observed": ["single"], "candidates": 10}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(claim))
    command = ["claims", "--claim", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out"), "--device", "cpu", "--threads", "1"]
    assert execute(command) == 0
    first = capsys.readouterr().out
    assert "| claim | source |" in first and "| pruning | Zhu et al." in first and "report: " in first
    document = json.loads((tmp_path / "out" / "claims.json").read_text())
    (judged,) = document["claims"]
    # Nothing is rebuilt in three iterations, also without a defense: that is no evidence.
    assert judged["verdict"] == "undecided" and {f["outcome"] for f in judged["findings"]} == {"undecided", None}
    assert [f["figure"] for f in judged["findings"]] == ["asr", "asr", "top-1", "change"]
    assert all(f["value"] is not None for f in judged["findings"])
    assert (tmp_path / "out" / "pruning" / "run.json").is_file()
    site = tmp_path / "out" / "report"
    assert "Zhu et al." in (site / "claims.html").read_text() and 'href="claims.html"' in (site / "index.html").read_text()
    assert (site / "claims.md").read_text() == (tmp_path / "out" / "claims.md").read_text()
    assert execute(command) == 0  # nothing is measured again
    assert "4 of 4 cells are done already and kept" in capsys.readouterr().out


def test_claims_are_listed(capsys):
    assert execute(["list", "claims"]) == 0
    output = capsys.readouterr().out
    assert all(f"  {name}\n" in output for name in claims.names())
