"""Identification from the rows of victims to boards, documents and pages."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from report_cases import write_cells, write_run
from scipy.stats import beta

from benchmark.errors import InputError
from benchmark.store.results import read_run
from reports import ranks, text
from reports.columns import board_columns
from reports.documents import read_document, to_json
from reports.flat_tables import identification_table
from reports.identification import identification_results
from reports.latex import latex
from reports.leaderboard import build
from reports.markdown import markdown
from reports.overview import overview
from reports.site import write_leaderboard, write_report
from reports.statistics import Estimate
from reports.submission import check, submit


def results_of(table, delta=None):
    return identification_results(table, delta, ["single", "8"])


def rows(better, **columns):
    """Rows of victims at one checkpoint."""
    count = len(better)
    defaults = {"checkpoint_epoch": 0, "observed": "single", "batch_size": 1, "knowledge": "informed", "method": "likelihood", "exact": True, "victim": range(count), "candidates": 100,
                "tied": 0, "label_share": None, "mu": None, "seconds": 0.5}
    return pd.DataFrame({**defaults, "better": better, **columns}).astype({"label_share": float, "mu": float})


def cell(asr, identifications, accuracy=0.5, **more):
    """A cell with the share of images that one attack rebuilt, and what (checkpoint, knowledge) identified."""
    return {"accuracies": [0.1, accuracy], "attacks": {(0, "a", "both"): [0.9] * asr + [0.1] * (4 - asr)}, "identifications": identifications, **more}


def a_run(folder, cells, candidates=100, **arguments):
    return write_cells(folder, {("d", "m", *place): content for place, content in cells.items()}, epochs=1, attacks=["a"], victims=4,
                       candidates=candidates, **arguments)


@pytest.fixture
def run(tmp_path):
    """Hidden pixels, and a rank of one; a bound; no defense."""
    mu = {"mu": [1.0] * 4, "label_share": [0.0, 0.5, 1.0, 1.0]}
    return a_run(tmp_path / "run", {
        ("none", 0): cell(4, {(0, "both"): {"better": [0] * 4, "method": ["exact"] * 4, "exact": [True] * 4}}),
        ("noise", 0): cell(0, {(0, "blind"): {"better": [0, 1, 50, 99], "method": ["cosine"] * 4},
                               (0, "informed"): {"better": [0, 0, 0, 3], "exact": [True] * 4}, (1, "informed"): {"better": [0, 2, 2, 3]}}, 0.4),
        ("private", 0): cell(0, {(0, "blind"): {"better": [40, 50, 60, 70], **mu}, (0, "informed"): {"better": [0, 10, 20, 30], **mu}}, 0.3)})


def board_of(run):
    (section,) = build([read_run(run)])
    return section.board


def shown(board):
    """The texts of the table of points, by defense and the title of their column."""
    return {entry.defense: {column.title: column.value(entry).text for column in board_columns(board)} for entry in board.entries}


def test_by_hand():
    (result,) = results_of(rows([0, 0, 0, 50], label_share=[1.0, 1.0, 0.0, None], mu=[1.0, 2.0, 0.5, 1.0]))
    assert (result.checkpoint_epoch, result.knowledge, result.method, result.exact, result.candidates, result.victims) == (
        0, "informed", "likelihood", True, 100, 4)
    assert [point.size for point in result.top1] == [2, 5, 10, 20, 50, 100]
    assert [point.rate.mean for point in result.top1] == pytest.approx(
        [(3 + math.comb(49, size - 1) / math.comb(99, size - 1)) / 4 for size in (2, 5, 10, 20, 50, 100)])
    assert (result.at_all.mean, result.at_all.low, result.at_all.high) == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)  # Wilson's
    assert result.median_rank == 1 and result.seconds_per_victim == 0.5
    assert result.bits == pytest.approx(0.75 * math.log2(75) + 0.25 * math.log2(0.25 * 100 / 32)) and 0 <= result.bits_low < result.bits
    least = ranks.lower_limit(3, 4)
    assert result.epsilon_low == pytest.approx(math.log(100 * (least - 1e-5))) and result.mu_low == ranks.mu_limit(least, 100)
    assert result.mu == 2 and result.bound == ranks.top_one_bound(2, 100)  # what holds for all of them
    assert result.label_share.mean == pytest.approx(2 / 3)
    (other,) = results_of(rows([0, 0, 0, 50], mu=[1.0, None, 0.5, 1.0]), 0.1)
    assert other.mu is other.bound is other.label_share is None and other.epsilon_low == pytest.approx(math.log(100 * (least - 0.1)))
    assert results_of(None) == []


def test_ties_take_their_expected_rank_and_are_no_hits():
    (constant,) = results_of(rows([0] * 64, tied=99))
    assert [point.rate.mean for point in constant.top1] == pytest.approx([1 / point.size for point in constant.top1])
    assert (constant.median_rank, constant.bits_low, constant.epsilon_low, constant.mu_low) == (50.5, 0, 0, 0)


def test_results_are_told_apart_by_mode_checkpoint_and_knowledge():
    found = results_of(pd.concat([rows([0, 9]), rows([5, 5], checkpoint_epoch=10), rows([7], knowledge="blind", exact=False),
                                  rows([1, 1, 1], observed="8", batch_size=8)]))
    assert [(r.observed, r.batch_size, r.checkpoint_epoch, r.knowledge, r.victims, r.median_rank, r.exact) for r in found] == [
        ("single", 1, 0, "blind", 1, 8, False), ("single", 1, 0, "informed", 2, 5.5, True), ("single", 1, 10, "informed", 2, 6, True),
        ("8", 8, 0, "informed", 3, 2, True)]


def test_the_order_of_victims_changes_nothing():
    generator = np.random.default_rng(0)
    table = rows(generator.integers(0, 60, 50), tied=generator.integers(0, 3, 50), candidates=generator.choice([80, 100], 50), label_share=generator.random(50))
    assert results_of(table) == results_of(table.sample(frac=1, random_state=1))


def test_of_pools_of_different_sizes_the_smallest_counts():
    """Victims among 100 as if they had been drawn from among 50 of these."""
    (result,) = results_of(rows([0, 0, 0, 33], candidates=[50, 50, 100, 100]))
    assert result.candidates == 50 and [point.size for point in result.top1] == [2, 5, 10, 20, 50]
    assert result.at(10).mean == pytest.approx((3 + math.comb(66, 9) / math.comb(99, 9)) / 4) and result.at(100) is None
    assert results_of(rows([33], candidates=[100]))[0].median_rank == 34
    assert results_of(rows([0, 33], candidates=[50, 100]))[0].median_rank == pytest.approx((1 + 1 + 33 * 49 / 99) / 2)


def test_the_board_shows_identification_beside_reconstruction(run):
    board = board_of(run)
    rows = shown(board)
    titles = list(rows["noise"])
    assert titles[titles.index("ASR, single") + 1] == "top-1 of 100, single"
    assert [rows[name]["top-1 of 100, single"] for name in ("none", "noise", "private")] == [
        "1.000 [0.510, 1.000] exact", "0.750 [0.301, 0.954] exact", "0.250 [0.046, 0.699]"]
    assert [rows[name]["identified (M = 100)"] for name in rows] == [rows[name]["top-1 of 100, single"] for name in rows]
    assert rows["noise"]["ASR, single"].startswith("0.00") and rows["noise"]["identified at most"] == "–"
    assert rows["private"]["identified at most"] == text.number(ranks.top_one_bound(1.0, 100), 3)
    assert rows["none"]["bits leaked"].startswith("≥ 0.65") and rows["private"]["bits leaked"] == "≥ 0.00"
    assert rows["private"]["label inference"] == "0.62" and rows["none"]["label inference"] == "–"
    assert rows["noise"]["identified by"] == "likelihood, exact; untrained" and rows["none"]["identified by"] == "exact; untrained"
    assert [rows[name]["identified blindly"][:5] for name in ("none", "noise", "private")] == ["1.000", "0.250", "0.000"]
    assert ", identified among 100 candidates;" in text.protocol(board)


def test_the_limit_by_hand():
    """Where victims are hits or misses that of Clopper and Pearson: 1 of 59 reaches up to 0.078, none up to 1 - 0.05^(1/59); a constant
    rate that is neither has itself as its limit, by the bootstrap."""
    assert results_of(rows([0] + [99] * 58))[0].limit == pytest.approx(beta.ppf(0.95, 2, 58))
    assert results_of(rows([99] * 59))[0].limit == pytest.approx(1 - 0.05 ** (1 / 59))
    assert results_of(rows([0] * 64, tied=99))[0].limit == pytest.approx(0.01)
    assert results_of(rows([50], tied=1))[0].limit == 0.95  # of one victim nothing can be said


def test_the_limit_is_that_of_a_hundred_candidates_where_there_are_more():
    better = np.random.default_rng(0).integers(0, 200, 128)
    (result,) = results_of(rows(better, candidates=1000))
    assert result.compared.size == 100 and result.compared.rate.mean == result.at(100).mean > result.at_all.mean
    assert result.at(100).mean < result.limit < result.at(100).high


def test_the_checkpoint_of_the_highest_rate_counts(run):
    """Of equal rates that which tells more bits."""
    entry = next(entry for entry in board_of(run).entries if entry.defense == "noise")
    assert (entry.identified.checkpoint_epoch, entry.identified_blindly.checkpoint_epoch) == (0, 0)
    later = replace(entry.identified, checkpoint_epoch=7, bits=entry.identified.bits + 0.1)
    assert replace(entry, identifications=[later, *entry.identifications]).identified == later
    assert replace(entry, identifications=[*entry.identifications, later]).identified == later


def test_without_the_likelihood_who_knows_the_defense_may_do_as_well_what_a_blind_attacker_does(run):
    entry = next(entry for entry in board_of(run).entries if entry.defense == "noise")
    simulated = replace(entry.identified, method="simulated", exact=False)
    blind = replace(simulated, knowledge="blind", method="cosine", top1=[*simulated.top1[:-1], replace(simulated.top1[-1], rate=Estimate(0.9, 0.8, 1.0))])
    assert replace(entry, identifications=[blind, simulated]).identified == blind
    assert replace(entry, identifications=[blind, replace(simulated, exact=True)]).identified == replace(simulated, exact=True)
    assert replace(entry, identifications=[blind]).identified is None


def test_blind_attackers_alone_are_what_counts_where_no_other_was_measured(tmp_path):
    run = a_run(tmp_path / "run", {("mine", 0): cell(1, {(0, "blind"): {"better": [0, 0, 9, 9]}})}, known=("blind",))
    board = board_of(run)
    assert board.only_blind and shown(board)["mine"]["top-1 of 100, single"].startswith("0.500") and board.families[0].leakage == 0.5
    meanings = {column.title: column.meaning for column in board_columns(board)}
    assert "who knows nothing of the defense" in meanings["top-1 of 100, single"] and "who knows nothing of the defense" in meanings["ASR, single"]
    assert overview([board])[0].values[0].text == "leaks 0.50"


def test_a_class_with_fewer_images_is_said(tmp_path):
    run = a_run(tmp_path / "run", {("mine", seed): cell(1, {(0, "both"): {"better": [0] * 4, "candidates": [count] * 4}}) for seed, count in ((0, 60), (1, 70))})
    board = board_of(run)
    assert "top-1 of 60, single" in shown(board)["mine"] and "identified among 100 candidates (60, as many as there are);" in text.protocol(board)


def test_why_identification_does_not_apply_is_said(tmp_path):
    run = a_run(tmp_path / "run", {("mine", seed): cell(1, {}, unidentified=[(0, "blind", "no images"), (0, "informed", "no images")]) for seed in (0, 1)})
    board = board_of(run)
    assert shown(board)["mine"]["top-1 of 100, single"] == "does not apply" and len(board.entries[0].unidentified) == 2
    assert "| mine | of single images | untrained | informed | does not apply: no images |" in markdown([board])
    assert "does not apply: no images" in (write_report([run], tmp_path / "site").parent / "d-m.html").read_text()


def test_the_flat_table_has_a_row_per_size_of_the_pool(run):
    board = board_of(run)
    table = identification_table([board])
    assert len(table) == 6 * 6 and set(table["pool_size"]) == {2, 5, 10, 20, 50, 100}
    informed = table[(table["defense"] == "private") & (table["knowledge"] == "informed")].set_index("pool_size")
    assert informed.loc[100, "top1"] == 0.25 and informed.loc[100, "bound"] == pytest.approx(ranks.top_one_bound(1.0, 100))
    assert informed.loc[2, "bound"] == pytest.approx(ranks.top_one_bound(1.0, 2)) and informed["label_share"].tolist() == [0.625] * 6


def test_every_form_has_it(run, tmp_path):
    site = write_report([run], tmp_path / "site").parent
    forms = {path.name: path.read_text() for path in site.iterdir() if path.is_file()}
    for name in ("index.html", "d-m.html", "leaderboard.md"):
        assert text.NOT_IDENTIFIED not in forms[name] and text.NOT_TUNED in forms[name]
    page = forms["d-m.html"]
    assert "<h2>Identification</h2>" in page and "Identification at every checkpoint" in page and list((site / "assets").glob("d-m-*pools*.svg"))
    assert "Identification at every checkpoint" in forms["defense-noise.html"]
    assert 'href="identification.csv"' in forms["index.html"] and len(pd.read_csv(site / "identification.csv")) == 36
    assert "### Identification" in forms["leaderboard.md"] and "1.000 [0.510, 1.000] exact" in forms["leaderboard.md"]
    assert "top-1 of 100" in forms["leaderboard.tex"] and "bits leaked" not in forms["leaderboard.tex"]
    assert [len(entry["identifications"]) for entry in json.loads(forms["leaderboard.json"])["boards"][0]["entries"]] == [1, 2, 3]
    assert read_document(site / "leaderboard.json").boards == [board_of(run)]
    merged = write_leaderboard(read_document(site / "leaderboard.json"), tmp_path / "again").parent
    assert (merged / "d-m.html").read_text().count("<h2>Identification</h2>") == 1 and list((merged / "assets").glob("d-m-*pools*.svg"))


def test_a_run_without_it_says_how_to_add_it(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.7]})
    site = write_report([run], tmp_path / "site").parent
    for name in ("index.html", "digits-lenet.html", "leaderboard.md"):
        assert (site / name).read_text().count(text.NOT_IDENTIFIED) == 1 and "--candidates 1000" in text.NOT_IDENTIFIED
    assert "<h2>Identification</h2>" not in (site / "digits-lenet.html").read_text() and not (site / "identification.csv").exists()
    board = board_of(run)
    assert not any(column.shown for column in board_columns(board) if column.title.startswith(("top-1", "identified", "bits", "label inference")))
    assert "top-1" not in latex([board]) and shown(board)["none"]["top-1 of 100, single"] == "not measured"
    assert "candidates" not in text.protocol(board)


def the_private(document):
    return document["boards"][0]["entries"][1]["identifications"][1]


WRONG = {
    "identifications.1.top1.5.rate: must lie within [0, 1], got 1.2": lambda r: r["top1"][-1].update(rate={"mean": 1.2, "low": 0.1, "high": 1.3}),
    "identifications.1.top1.0.rate: the mean must lie within its interval": lambda r: r["top1"][0]["rate"].update(mean=0.0),
    "identifications.1.top1: the rate must not rise with the size": lambda r: r["top1"][-1].update(rate={"mean": 0.9, "low": 0.1, "high": 1.0}),
    "identifications.1.top1: the sizes of the pool must rise up to that of all candidates, 100": lambda r: r["top1"].pop(),
    "identifications.1.top1: the sizes of the pool must rise": lambda r: r["top1"].insert(0, r["top1"][0]),
    "identifications.1.candidates: must be at most those of the protocol, 100, got 101": lambda r: r.update(candidates=101),
    "identifications.1.candidates: input should be less than or equal to 10000000": lambda r: r.update(candidates=10**400),
    "identifications.1.candidates: input should be greater than or equal to 2": lambda r: r.update(candidates=1),
    "identifications.1.median_rank: the other numbers allow at most 100, got 101": lambda r: r.update(median_rank=101.0),
    "identifications.1.median_rank: must be at least 1": lambda r: r.update(median_rank=0.5),
    "identifications.1.bits: the other numbers allow at most 6.64386, got 7": lambda r: r.update(bits=7.0),
    "identifications.1.bits_low: the other numbers allow at most": lambda r: r.update(bits_low=r["bits"] + 0.1),
    "identifications.1.epsilon_low: the other numbers allow at most": lambda r: r.update(epsilon_low=2.0),
    "identifications.1.mu_low: the other numbers allow at most": lambda r: r.update(mu_low=2.0),
    "identifications.1.bound: mu is 1.0, which gives 0.0923": lambda r: r.update(bound=0.9),
    "identifications.1.bound: mu is 1.0, which gives 0.09": lambda r: r.update(bound=None),
    "identifications.1.bound: mu is None, which gives None": lambda r: r.update(mu=None),
    "identifications.1.label_share: must lie within [0, 1]": lambda r: r.update(label_share={"mean": 2.0, "low": None, "high": None}),
    "identifications.1.victims: input should be greater than or equal to 1": lambda r: r.update(victims=0),
    "identifications.1.limit: must be at least the rate, 0.25, got 0.2": lambda r: r.update(limit=0.2),
    "identifications.1.limit: input should be less than or equal to 1": lambda r: r.update(limit=1.1),
    "identifications: a checkpoint is there twice with the same knowledge and gradients": lambda r: r.update(knowledge="blind"),
    "identifications.1.top1: list should have at most 100 items": lambda r: r.update(top1=r["top1"] * 50),
    "identifications.1.top1: 0.25 of 400 victims identified among 100 candidates, at least 0.18": lambda r: r.update(victims=400),
}


@pytest.mark.parametrize("message", WRONG)
def test_numbers_that_cannot_be_are_found(run, tmp_path, message):
    submit(run, "a", "", tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    read_document(tmp_path / "a.json")
    WRONG[message](the_private(document))
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as error:
        read_document(tmp_path / "a.json")
    assert f"boards.0.entries.1.{message}" in str(error.value)


@pytest.mark.parametrize(("column", "forged"), [("bits", 0.1), ("median_rank", 20.0), ("exact", True), ("method", "cosine"), ("seconds_per_victim", 9.0),
                                                ("label_share", None), ("limit", 0.9)])
def test_numbers_that_the_tables_do_not_give_are_found(run, tmp_path, column, forged):
    submit(run, "a", "", tmp_path / "a.json")
    assert "what the tables of" in check(tmp_path / "a.json", run)
    document = json.loads((tmp_path / "a.json").read_text())
    assert the_private(document)[column] != forged
    the_private(document)[column] = forged
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert check(tmp_path / "a.json")
    with pytest.raises(InputError, match="the numbers of private are not those that the tables"):
        check(tmp_path / "a.json", run)


def test_a_rate_above_its_bound_fails_the_check_of_a_run(tmp_path):
    better = {"better": [0] * 40, "mu": [0.5] * 40}
    run = a_run(tmp_path / "run", {("private", 0): cell(0, {(0, "both"): better})})
    submit(run, "a", "", tmp_path / "a.json")
    with pytest.raises(InputError, match=r"1 of 40 victims identified among 100 candidates, at least 0\.84.* at 99\.9 %, is above the bound 0\.03.* a bug"):
        check(tmp_path / "a.json", run)


def test_a_round_trip_keeps_all(run, tmp_path):
    write_report([run], tmp_path / "site")
    document = read_document(tmp_path / "site" / "leaderboard.json")
    (tmp_path / "again.json").write_text(to_json(document))
    assert read_document(tmp_path / "again.json") == document
