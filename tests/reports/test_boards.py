"""Families, trials and modes, from run folders to the tables of a board."""

from __future__ import annotations

import json
import math

import pytest
from report_cases import write_cells, write_run

from benchmark.specification import AS_TRAINED, SINGLE
from benchmark.store.results import read_run
from reports import text
from reports.columns import board_columns, family_columns
from reports.detail_tables import trial_table
from reports.flat_tables import family_table, table
from reports.flat_tables import trial_table as flat_trials
from reports.latex import latex
from reports.leaderboard import build
from reports.markdown import markdown

BOTH = (AS_TRAINED, SINGLE)
#: Of 64 images, and 64 victims among 100.
NOTHING, ALL = [0.1] * 64, [0.9] * 64
HIDDEN, FOUND = {"better": [50] * 64}, {"better": [0] * 64}


def cell(accuracy, trained=True, single=True, **training):
    """Safe as trained, and where one image is observed; or all of it leaks."""
    places = ((AS_TRAINED, trained), (SINGLE, single))
    return {"accuracies": [0.1, accuracy],
            "attacks": {(0, "a", "both", mode): NOTHING if safe else ALL for mode, safe in places},
            "identifications": {(0, "both", mode): HIDDEN if safe else FOUND for mode, safe in places},
            "training": {name: [values] * 2 for name, values in training.items()}}


def a_run(folder, cells, **more):
    arguments = {"epochs": 1, "attacks": ["a"], "victims": 64, "candidates": 100, "observed": BOTH, "batch_size": 32, **more}
    return write_cells(folder, {("d", "m", defense, seed): content for (defense, seed), content in cells.items()}, **arguments)


def trials(**of):
    return {("d", "m", defense): tried for defense, tried in of.items()}


@pytest.fixture
def run(tmp_path):
    """Three strengths, of which the weakest is not safe, the middle not for single images; tuned."""
    return a_run(tmp_path / "run", {
        ("none", 0): cell(0.6, False, False), ("weak", 0): cell(0.59, False, False), ("middle", 0): cell(0.5, True, False), ("strong", 0): cell(0.4),
        ("other", 0): cell(0.45)},
        families=[("none", None, ["none"]), ("x(p)", "p", ["weak", "middle", "strong"]), ("other", None, ["other"])],
        trials=trials(none=[(1e-3, 32, 0.5, 0.1), (1e-2, 32, 0.55, 0.1)], weak=[(1e-3, 32, 0.5, 0.1), (1e-2, 32, 0.4, 0.1)],
                      middle=[(1e-3, 32, 0.45, 0.1), (1e-2, 32, 0.45, 0.1)], strong=[(1e-3, 32, 0.9, math.nan), (1e-2, 32, 0.4, 0.1)],
                      other=[(1e-3, 32, 0.4, math.inf), (1e-2, 32, 0.44, 0.1)]))


def board_of(*runs):
    (section,) = build([read_run(run) for run in runs])
    return section.board


def texts(columns, row):
    return {column.title: column.value(row).text for column in columns}


def by_name(board):
    return {entry.defense: entry for entry in board.entries}


def test_families_are_ranked_by_the_safe_accuracy_as_trained(run):
    board = board_of(run)
    assert [(family.rank, family.name, family.parameter, family.defenses) for family in board.families] == [
        (1, "x(p)", "p", ["weak", "middle", "strong"]), (2, "other", None, ["other"]), (3, "none", None, ["none"])]
    assert [[standing.safe for standing in family.standings] for family in board.families] == [["middle", "strong"], ["other", "other"], [None, None]]
    assert [entry.defense for entry in board.entries] == ["weak", "middle", "strong", "other", "none"]
    assert {entry.family for entry in board.entries[:3]} == {"x(p)"} and (board.observed, board.ranked_by) == (list(BOTH), AS_TRAINED)
    assert board.families[0].free.defense == "weak" and board.families[1].free is None


def test_the_table_of_families(run):
    board = board_of(run)
    columns = family_columns(board)
    row = texts(columns, board.families[0])
    assert row == row | {"rank": "1", "family": "x(p)", "safe accuracy, as trained": "0.500", "strength": "middle", "undefended": "0.600",
                         "safe accuracy, single": "0.400", "strength, single": "strong", "free privacy": "1.00 (weak)", "least leakage": "0.00",
                         "validation accuracy": "0.450", "strengths": "3"}
    assert texts(columns, board.families[2])["safe accuracy, as trained"] == "none"
    assert [column.title for column in columns if column.narrow] == ["rank", "family", "safe accuracy, as trained"]
    assert [column.title for column in columns if column.shown][:4] == ["rank", "family", "safe accuracy, as trained", "strength"]
    assert not any(column.shown for column in columns if column.title == "epsilon")


def test_the_table_of_points(run):
    board = board_of(run)
    columns = board_columns(board)
    row = texts(columns, by_name(board)["middle"])
    assert row == row | {"rank": "1", "defense": "middle ★", "family": "x(p)", "training": "Adam 0.001, 32", "validation accuracy": "0.450",
                         "sent": "4 kB", "sent, ratio": "1.00×"}
    assert [row[f"ASR, {mode}"][:4] for mode in ("as trained", "single")] == ["0.00", "1.00"]
    assert [row[f"top-1 of 100, {mode}"][:5] for mode in ("as trained", "single")] == ["0.000", "1.000"]
    assert [column.title for column in columns if column.narrow] == ["rank", "defense", "ASR, as trained", "top-1 of 100, as trained", "test accuracy"]
    assert [column.title for column in columns if column.shown and column.title != "PSNR > 19 dB, as trained"][:5] == [
        column.title for column in columns if column.narrow]


def test_attacks_and_identifications_are_told_apart_by_mode(run):
    middle = by_name(board_of(run))["middle"]
    assert [(r.observed, r.batch_size, r.images, r.asr.mean) for r in middle.attacks if r.kind == "attack"] == [
        (AS_TRAINED, 32, 64, 0.0), (SINGLE, 1, 64, 1.0)]
    assert [(r.observed, r.batch_size, r.victims, r.at_all.mean) for r in middle.identifications] == [(AS_TRAINED, 32, 64, 0.0), (SINGLE, 1, 64, 1.0)]
    assert middle.identifications[0].limit == pytest.approx(1 - 0.05 ** (1 / 64)) and middle.identifications[1].limit == 1.0


def test_the_order_of_modes_is_that_of_the_protocol(tmp_path):
    board = board_of(a_run(tmp_path / "run", {("mine", 0): {"accuracies": [0.1, 0.5], "attacks": {(0, "a", "both", mode): NOTHING for mode in ("8", SINGLE)},
                                                            "identifications": {(0, "both", mode): HIDDEN for mode in ("8", SINGLE)}}}, observed=(SINGLE, "8")))
    (entry,) = board.entries
    assert list(dict.fromkeys(r.observed for r in entry.attacks)) == [r.observed for r in entry.identifications] == board.observed == [SINGLE, "8"]
    assert board.ranked_by == SINGLE and entry.seen("8").worst_case.batch_size == 8
    assert "gradients of single images and of 8 images (of which" in text.protocol(board) and "ASR, 8 images" in texts(board_columns(board), entry)


def test_obstacles_are_of_a_mode(tmp_path):
    content = {"accuracies": [0.1, 0.5], "attacks": {}, "obstacles": [(0, "a", "blind", "no", SINGLE)], "unidentified": [(0, "blind", "none", AS_TRAINED)]}
    (entry,) = board_of(a_run(tmp_path / "run", {("mine", 0): content})).entries
    assert [(r.attack, r.observed, r.reason, r.batch_size) for r in entry.attacks] == [("a", SINGLE, "no", None)]
    assert [(o.observed, o.reason) for o in entry.unidentified] == [(AS_TRAINED, "none")]


def test_the_chosen_trial_is_the_best_that_did_not_diverge(run):
    found = by_name(board_of(run))
    assert [(trial.learning_rate, trial.chosen, trial.diverged) for trial in found["strong"].trials] == [(1e-3, False, True), (1e-2, True, False)]
    assert [trial.chosen for trial in found["middle"].trials] == [True, False]  # of equal ones the first
    assert (found["strong"].validation, found["strong"].learning_rate, found["strong"].batch_size, found["strong"].optimizer) == (0.4, 1e-2, 32, "adam")
    assert [trial.train_loss for trial in found["other"].trials] == [math.inf, 0.1] and found["strong"].trials[0].train_loss is None
    header, rows = trial_table([found["strong"]])
    assert [value.text for value in rows[0]] == ["strong", "Adam", "0.001", "32", "0.900", "diverged", ""] and rows[1][-1].text == "★" and len(header) == 7


def test_a_defense_whose_trials_all_diverged_is_there_with_its_losses(tmp_path):
    run = a_run(tmp_path / "run", {("none", 0): cell(0.6)}, failed=[("d", "m", "mine", 0), ("d", "m", "mine", 1)],
                trials=trials(none=[(1e-3, 32, 0.5, 0.1), (1e-2, 32, 0.5, 0.1)], mine=[(1e-3, 32, 0.1, math.nan), (1e-2, 32, 0.1, math.inf)]))
    mine = by_name(board_of(run))["mine"]
    assert mine.problems == ["all 2 trials diverged, so that it was not trained; losses: Adam, step size 0.001, batch size 32: nan; "
                             "Adam, step size 0.01, batch size 32: inf"]
    assert (mine.accuracy, mine.validation, [trial.chosen for trial in mine.trials]) == (None, None, [False, False])
    assert board_of(run).families[1].rank is None and "loss" in markdown([board_of(run)])


def test_a_trial_that_failed_is_named(tmp_path):
    run = a_run(tmp_path / "run", {("none", 0): cell(0.6)}, trials=trials(none=[(1e-3, 32, 0.5, 0.1), (1e-2, 32, 0.4, 0.1)]))
    key = next(key for key, spec in json.loads((run / "run.json").read_text())["trials"].items() if spec["learning_rate"] == 1e-2)
    (run / "failures").mkdir()
    (run / "failures" / f"{key}.json").write_text(json.dumps({"error": "RuntimeError: broken"}))
    assert board_of(run).entries[0].problems == ["trial of Adam, step size 0.01, batch size 32: RuntimeError: broken"]


def test_runs_are_joined_with_their_families_and_trials(tmp_path):
    """A defense that one run has alone is one of the strengths that another has of its family; trials count once."""
    tried = [(1e-3, 32, 0.5, 0.1)]
    first = a_run(tmp_path / "a", {("one", 0): cell(0.5), ("two", 0): cell(0.4)}, trials=trials(one=tried, two=tried))
    second = a_run(tmp_path / "b", {("two", 0): cell(0.4), ("three", 0): cell(0.3)}, families=[("x(p)", "p", ["three", "two"])],
                   trials=trials(two=tried, three=tried))
    third = a_run(tmp_path / "c", {("four", 0): cell(0.2)}, families=[("x(p)", "p", ["four"])], trials=trials(four=tried))
    board = board_of(first, second, third)
    assert [(family.name, family.defenses) for family in board.families] == [("one", ["one"]), ("x(p)", ["two", "three", "four"])]
    assert all(len(entry.trials) == 1 for entry in board.entries)


def test_bytes_sent_are_compared_with_the_undefended_model(tmp_path):
    (section,) = build([read_run(a_run(tmp_path / "run", {("none", 0): cell(0.6, sent_bytes=4000), ("mine", 0): cell(0.5, sent_bytes=100),
                                                          ("unknown", 0): cell(0.5, sent_bytes=None)}))])
    found = by_name(section.board)
    assert [(found[name].sent_bytes, found[name].sent_ratio) for name in ("none", "mine", "unknown")] == [(4000, None), (100, 0.025), (None, None)]
    assert [text.bytes_sent(count) for count in (None, 100, 4000, 1_234_567)] == ["–", "100 B", "4 kB", "1.23 MB"]


def test_chance_is_named(tmp_path):
    board = board_of(a_run(tmp_path / "run", {("mine", 0): cell(0.3, chance=0.3, test_images=100), ("other", 0): cell(0.5)}))
    at_chance = board.families[1]
    assert (at_chance.rank, at_chance.at_chance, by_name(board)["mine"].chance, by_name(board)["mine"].test_images) == (None, True, 0.3, 100)
    assert texts(family_columns(board), at_chance)["safe accuracy, as trained"] == "at chance" and texts(family_columns(board), at_chance)["rank"] == "–"
    assert texts(board_columns(board), by_name(board)["mine"])["test accuracy"] == "0.300 at chance"


def test_a_board_says_what_has_to_be_known_before_it_is_read(run, tmp_path):
    assert text.cautions(board_of(run)) == []
    tried = trials(mine=[(1e-3, 32, 0.5, 0.1)])
    shorter = board_of(a_run(tmp_path / "a", {("mine", 0): {**cell(0.5), "accuracies": [0.1, 0.3, 0.5], "training": {}}}, epochs=2, trials=tried, tuned_epochs=1))
    assert text.cautions(shorter) == ["Tuned on 1 of 2 epochs: what learns best in the first ones was chosen."]
    assert "on 0.1 of the training images after 1 epoch: Adam" in text.protocol(shorter)
    assert text.cautions(board_of(a_run(tmp_path / "b", {("mine", 0): cell(0.5)}, trials=tried, tuned_epochs=1))) == []
    few = {"accuracies": [0.1, 0.5], "attacks": {(0, "a", "both"): [0.1] * 32}, "identifications": {(0, "both"): {"better": [50] * 58}}}
    board = board_of(a_run(tmp_path / "c", {("mine", 0): few}))
    told = text.cautions(board)
    assert told[0] == text.NOT_TUNED and told[1].startswith("Too few victims: with fewer than 59") and len(told) == 2
    assert texts(family_columns(board), board.families[0])["safe accuracy, as trained"] == "0.500 estimated"
    bare = board_of(write_run(tmp_path / "d", {("mine", 0): [0.1, 0.2, 0.5]}, {("mine", 0): ALL}, known=("blind",), knowledge="blind"))
    assert text.cautions(bare) == [text.NOT_TUNED, text.ONLY_BLIND, text.NOT_IDENTIFIED]
    for form in (markdown([board]), latex([board])):
        assert "Not tuned" in form and "Too few victims" in form
    assert "Not tuned" not in markdown([board_of(run)])


def test_what_tuning_costs_stands_where_epsilon_does(run, tmp_path):
    private = {"epsilon": 1.0, "delta": 1e-5}
    tuned = board_of(a_run(tmp_path / "a", {("mine", 0): cell(0.5, **private)}, trials=trials(mine=[(1e-3, 32, 0.5, 0.1)])))
    untuned = board_of(a_run(tmp_path / "b", {("mine", 0): cell(0.5, **private)}))
    for board, said in ((tuned, True), (untuned, False)):
        for columns in (family_columns(board), board_columns(board)):
            (epsilon,) = (column for column in columns if column.title == "epsilon")
            assert epsilon.shown and (text.TUNING_COSTS in epsilon.meaning) is said
        assert (text.TUNING_COSTS in markdown([board])) is said
    assert texts(family_columns(tuned), tuned.families[0])["epsilon"] == "1.00 (δ = 1e-05)"
    assert text.TUNING_COSTS not in markdown([board_of(run)])


def test_the_protocol_says_how_it_was_trained_and_observed(run, tmp_path):
    assert text.protocol(board_of(run)).startswith(
        "Tuned for each defense on 0.1 of the training images: Adam, step size 0.001 or 0.01, batches of 32, 1 epoch; 64 victims per seed, gradients "
        "as trained and of single images (of which as many are attacked as have 1024 images), labels known, identified among 100 candidates;")
    single = board_of(a_run(tmp_path / "a", {("mine", 0): {"accuracies": [0.1, 0.5], "attacks": {}}}, observed=(SINGLE,)))
    assert text.protocol(single).startswith("Adam, step size 0.001, batches of 32, 1 epoch; 64 victims per seed, gradients of single images, labels known")


def test_flat_tables(run):
    boards = [board_of(run)]
    families, tried, points = family_table(boards), flat_trials(boards), table(boards)
    assert len(families) == 6 and len(tried) == 10 and set(points["observed"]) == set(BOTH)
    ranked = families[families["ranked_by"]].set_index("family")
    assert ranked["safe"].fillna("").tolist() == ["middle", "other", ""] and ranked["safe_accuracy"].tolist()[:2] == [0.5, 0.45]
    assert ranked.loc["x(p)", ["free", "free_leakage", "least_leakage", "defenses"]].tolist() == ["weak", 1.0, 0.0, "weak; middle; strong"]
    assert tried.groupby("defense")["chosen"].sum().tolist() == [1] * 5 and tried["diverged"].sum() == 2
    assert points.set_index("defense").loc["middle", "learning_rate"].unique() == [1e-3] and set(points["trained_batch_size"]) == {32}
