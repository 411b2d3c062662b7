"""Entries: made, merged, checked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from report_cases import write_run

from benchmark.cli import execute
from benchmark.errors import InputError
from reports.documents import parse, read_document, to_json
from reports.families import ranked
from reports.site import write_leaderboard
from reports.submission import check, merge, submit


def a_run(folder, defense="mine", accuracy=0.8, ssim=0.1, **arguments):
    return write_run(folder, {("none", 0): [0.1, 0.7, 0.8], (defense, 0): [0.1, 0.2, accuracy]},
                     {("none", 0): [0.9, 0.8], (defense, 0): [ssim, ssim]}, **arguments)


def write_consistently(path, document):
    """A document whose families follow from what was changed."""
    submission = parse(json.dumps(document), "test")
    path.write_text(to_json(replace(submission, boards=[ranked(board) for board in submission.boards])))


def an_entry(tmp_path, name, **arguments):
    path = tmp_path / f"{name}.json"
    submit(a_run(tmp_path / name, **arguments), name, "https://example.org/x", path)
    return path


def test_an_entry_holds_aggregates_configuration_versions_and_the_hash(tmp_path):
    run = a_run(tmp_path / "run")
    submit(run, "My defense", "", tmp_path / "new" / "entry.json")
    document = json.loads((tmp_path / "new" / "entry.json").read_text())
    (made,) = document["runs"]
    assert made["grid"]["evaluation"]["victims"] == 2 and made["packages"] == {"torch": "2"} and made["leakboard"] == "1"
    assert [e["defense"] for e in document["boards"][0]["entries"]] == ["mine", "none"]
    assert [family["defenses"] for family in document["boards"][0]["families"]] == [["mine"], ["none"]]
    assert len((tmp_path / "new" / "entry.json").read_bytes()) < 20_000
    assert "valid entry 'My defense': 1 boards, 2 defenses" in check(tmp_path / "new" / "entry.json", run)


def test_an_entry_names_the_machines_that_measured_its_cells(tmp_path):
    run = a_run(tmp_path / "run")
    for name, file in zip(("H200", "H100"), sorted(run.glob("cells/*/trained/part.json")), strict=True):
        file.write_text(json.dumps({**json.loads(file.read_text()), "hardware": name}))
    assert submit(run, "a", "", tmp_path / "a.json").runs[0].hardware == "H100, H200"


@pytest.mark.parametrize(("given", "published"), [
    ("leakboard run '/home/me/my grids/a.yaml' --out=/data/a --models-from ../b --defense 'noise(std=0.1)'",
     "leakboard run a.yaml --out=a --models-from ../b --defense 'noise(std=0.1)'"),
    ("leakboard run --attack 'inverting-gradients(iterations=300)'", "leakboard run --attack 'inverting-gradients(iterations=300)'"),
    ("it's", "it's")])
def test_where_files_lie_on_a_machine_is_not_published(tmp_path, given, published):
    run = a_run(tmp_path / "run")
    manifest = json.loads((run / "run.json").read_text())
    manifest["provenance"]["command"] = given
    (run / "run.json").write_text(json.dumps(manifest))
    assert submit(run, "a", "", tmp_path / "a.json").runs[0].command == published


def test_numbers_that_the_tables_do_not_give_are_found(tmp_path):
    path = an_entry(tmp_path, "a")
    document = json.loads(path.read_text())
    document["boards"][0]["entries"][0]["accuracy"]["mean"] = 0.85
    write_consistently(path, document)
    assert check(path)  # nothing contradicts it
    with pytest.raises(InputError, match=r"boards\.0\.entries\.0: the numbers of mine are not those that the tables"):
        check(path, tmp_path / "a")
    with pytest.raises(InputError, match=r"tables_sha256: not the hash"):
        check(path, a_run(tmp_path / "other", accuracy=0.5))


@pytest.mark.parametrize("place", [0, 1, 2, 3], ids=["worst case", "blind", "oracle bound", "attack"])
@pytest.mark.parametrize(("column", "forged"), [("asr", {"mean": 0.25, "low": 0.0, "high": 0.7}), ("recovered", {"mean": 1.0, "low": 0.3, "high": 1.0}), ("ssim", {"mean": 0.1, "low": 0.05, "high": 0.3}),
                                                ("seconds_per_victim", 0.1), ("label_accuracy", 0.0), ("winners", {"forged": 2})])
def test_forged_figures_of_an_attack_are_found_where_the_rank_stays(tmp_path, place, column, forged):
    path = an_entry(tmp_path, "a")
    document = json.loads(path.read_text())
    attacks = document["boards"][0]["entries"][0]["attacks"]
    assert attacks[place][column] != forged
    attacks[place][column] = forged
    write_consistently(path, document)
    assert check(path)  # it still leads
    with pytest.raises(InputError, match=r"boards\.0\.entries\.0: the numbers of mine are not those that the tables"):
        check(path, tmp_path / "a")


def test_an_entry_of_a_version_that_did_not_count_what_is_recovered_is_still_read_and_checked(tmp_path):
    path = an_entry(tmp_path, "a")
    document = json.loads(path.read_text())
    results = [result for entry in document["boards"][0]["entries"] for result in entry["attacks"]]
    assert all(result.pop("recovered") is not None for result in results)
    path.write_text(json.dumps(document))
    assert "valid entry" in check(path, tmp_path / "a")
    assert [result.recovered for board in merge([path]).boards for entry in board.entries for result in entry.attacks] == [None] * len(results)
    results[0]["recovered"] = {"mean": 0.0, "low": 0.0, "high": 0.7}
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="are not those that the tables"):
        check(path, tmp_path / "a")


@pytest.mark.parametrize("change", [
    lambda board: (board["entries"].append({**board["entries"][-1], "defense": "invented", "family": "invented"}),
                   board["families"].append({**board["families"][-1], "defenses": ["invented"], "name": "invented"})),
    lambda board: (board["entries"].pop(), board["families"].pop(), board.update(undefended=None)),
    lambda board: (board["families"][0].update(name="f"), board["entries"][0].update(family="f")),
    lambda board: board["families"][0].update(parameter="p"),
    lambda board: board["protocol"]["evaluation"].update(victims=128),
    lambda board: board.update(undefended=None)], ids=["added", "left out", "another family", "another parameter", "another protocol", "another comparison"])
def test_entries_that_the_run_does_not_have_and_those_left_out_are_found(tmp_path, change):
    path = an_entry(tmp_path, "a")
    document = json.loads(path.read_text())
    change(document["boards"][0])
    write_consistently(path, document)
    assert check(path)
    with pytest.raises(InputError, match="boards: other data sets, models, protocols, families or defenses"):
        check(path, tmp_path / "a")


def test_entries_of_one_protocol_share_a_board_and_others_do_not(tmp_path):
    paths = [an_entry(tmp_path, "Anna", defense="x", ssim=0.7), an_entry(tmp_path, "Ben", defense="y", ssim=0.2),
             an_entry(tmp_path, "Cleo", defense="y", epochs=5), an_entry(tmp_path, "Dora", defense="y", attack="dlg(iterations=2)")]
    merged = merge(paths)
    assert [[(family.rank, family.name, family.submission) for family in board.families] for board in merged.boards] == [
        [(1, "y", "Ben"), (2, "none", "Anna"), (3, "none", "Ben"), (4, "x", "Anna")],
        [(1, "y", "Cleo"), (2, "none", "Cleo")], [(1, "y", "Dora"), (2, "none", "Dora")]]
    assert [(entry.defense, entry.submission) for entry in merged.boards[0].entries] == [("y", "Ben"), ("none", "Anna"), ("none", "Ben"), ("x", "Anna")]
    index = write_leaderboard(merged, tmp_path / "site")
    page = (tmp_path / "site" / "digits-lenet.html").read_text()
    assert "Anna" in page and "Ben" in page and "Cleo" not in page
    assert "https://example.org/x" in index.read_text()
    assert all(f"digits, lenet, {told}" in index.read_text() for told in ("inverting-gradients, 2 epochs", "inverting-gradients, 5 epochs", "dlg, 2 epochs"))
    assert "Cleo" in (tmp_path / "site" / "digits-lenet-2.html").read_text()
    assert read_document(tmp_path / "site" / "leaderboard.json") == merged
    assert "valid leaderboard: 3 boards, 8 defenses" in check(tmp_path / "site" / "leaderboard.json")


def test_a_merged_board_compares_with_the_undefended_model_of_any_entry(tmp_path):
    paths = []
    for name, defenses in (("a", ["x"]), ("b", ["none", "y"]), ("c", ["z"])):
        run = write_run(tmp_path / name, {(defense, 0): [0.1, 0.2, 0.3] for defense in defenses}, {(defense, 0): [0.5, 0.5] for defense in defenses})
        submit(run, name, "", tmp_path / f"{name}.json")
        paths.append(tmp_path / f"{name}.json")
    assert [board.undefended for board in merge(paths).boards] == ["none"]
    assert [board.undefended for board in merge(paths[:1]).boards] == [None]


def test_another_version_of_the_portfolio_is_another_protocol(tmp_path):
    paths = [an_entry(tmp_path, name) for name in ("a", "b")]
    document = json.loads(paths[1].read_text())
    document["boards"][0]["protocol"]["portfolio"] = 2
    paths[1].write_text(json.dumps(document))
    assert len(merge(paths).boards) == 2


def test_hostile_entries_stay_text(tmp_path):
    name = "<script>alert(1)</script> ../../x " + "y" * 100
    run = a_run(tmp_path / "run", defense="<img src=x onerror=alert(2)>")
    submit(run, name, "https://example.org/?q=&lt;", tmp_path / "entry.json")
    write_leaderboard(merge([tmp_path / "entry.json"]), tmp_path / "site")
    for page in (tmp_path / "site").glob("*.html"):
        text = page.read_text()
        assert "<script>alert" not in text and "<img src=x" not in text
        assert len(page.name) < 100


@pytest.mark.parametrize(("arguments", "message"), [
    (["submit", "{run}", "--name", "", "--out", "{tmp}/e.json"], "name: string should match pattern"),
    (["submit", "{run}", "--name", "a", "--paper", "ftp://x", "--out", "{tmp}/e.json"], "paper: string should match pattern"),
    (["submit", "{tmp}/nowhere", "--name", "a", "--out", "{tmp}/e.json"], "is not a run folder"),
    (["submit", "{run}", "--name", "a", "--out", "{tmp}/thesis.txt"], "thesis.txt: "),
    (["merge", "{tmp}/a.json", "{tmp}/a.json", "--out", "{tmp}/site"], "are both named 'a'"),
    (["merge", "{tmp}/a.json", "--out", "{tmp}/folder"], "is not a report of leakboard"),
    (["merge", "{tmp}/thesis.txt", "--out", "{tmp}/site"], "thesis.txt: the document: invalid JSON"),
    (["check", "{tmp}/nowhere.json"], "cannot read"),
    (["check", "{tmp}"], "cannot read"),
])
def test_bad_input_is_one_line_and_changes_nothing(tmp_path, capsys, arguments, message):
    run = a_run(tmp_path / "run")
    submit(run, "a", "", tmp_path / "a.json")
    (tmp_path / "thesis.txt").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    assert execute([argument.format(run=run, tmp=tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_commands(tmp_path, capsys):
    run = a_run(tmp_path / "run")
    assert execute(["submit", str(run), "--name", "A b", "--paper", "https://example.org", "--out", str(tmp_path / "e.json")]) == 0
    assert execute(["check", str(tmp_path / "e.json"), "--run", str(run)]) == 0
    assert execute(["merge", str(tmp_path / "e.json"), "--out", str(tmp_path / "site")]) == 0
    assert execute(["report", str(run), "--out", str(tmp_path / "report")]) == 0
    assert "what the tables of" in capsys.readouterr().out
    assert (tmp_path / "site" / "index.html").is_file() and (tmp_path / "report" / "leaderboard.tex").is_file()


def test_an_entry_of_the_format_before_is_replaced_by_one_of_its_run(tmp_path):
    """It is read nowhere else, and its error says to do this."""
    path = an_entry(tmp_path, "a")
    made = path.read_text()
    path.write_text(made.replace("leakboard-entry/4", "leakboard-entry/3"))
    for refused in (lambda: check(path), lambda: merge([path])):
        with pytest.raises(InputError, match="submit its run again"):
            refused()
    submit(tmp_path / "a", "a", "https://example.org/x", path)
    assert path.read_text() == made


def test_a_run_without_finished_cells_cannot_be_submitted(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): []}, {}, missing=(("none", 0),))
    with pytest.raises(InputError, match="no finished cell"):
        submit(run, "a", "", tmp_path / "e.json")
