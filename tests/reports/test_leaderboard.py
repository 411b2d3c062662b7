"""The leaderboard from tables made by hand."""

from __future__ import annotations

import pandas as pd
import pytest
from report_cases import write_cells, write_run

from benchmark import results
from reports import text
from reports.columns import attack_table, board_columns, overview
from reports.leaderboard import build, table


@pytest.fixture
def run(tmp_path):
    accuracies = {("none", 0): [0.1, 0.7, 0.8], ("none", 1): [0.1, 0.6, 0.9], ("weak", 0): [0.1, 0.2, 0.79], ("weak", 1): [0.1, 0.2, 0.7],
                  ("strong", 0): [0.1, 0.2, 0.3], ("strong", 1): [0.1, 0.2, 0.5]}
    ssims = {("none", 0): [0.9, 0.8], ("none", 1): [0.7, 0.6], ("weak", 0): [0.9, 0.1], ("weak", 1): [0.59, 0.6],
             ("strong", 0): [0.1, 0.2], ("strong", 1): [0.1, 0.0]}
    return write_run(tmp_path / "run", accuracies, ssims)


def entries(*runs):
    (section,) = build([results.read_run(run) for run in runs])
    return {entry.defense: entry for entry in section.board.entries}, section.board


def shown(board, defense):
    """The texts of a row by the title of their column."""
    (entry,) = (entry for entry in board.entries if entry.defense == defense)
    return {column.title: column.value(entry).text for column in board_columns(board)}


def test_by_hand(run):
    by_name, section = entries(run)
    assert [(e.rank, e.defense) for e in section.entries] == [(1, "strong"), (2, "weak"), (3, "none")]
    weak = by_name["weak"]
    assert weak.accuracy.mean == pytest.approx(0.745) and (weak.accuracy.low, weak.accuracy.high) == (0.7, 0.79)
    assert weak.change.mean == pytest.approx(((0.79 - 0.8) + (0.7 - 0.9)) / 2)
    assert weak.converged == [2, None]  # 0.79 >= 0.95 * 0.8, but 0.7 < 0.95 * 0.9
    assert weak.strongest.asr.mean == 0.5  # 0.9 and 0.6 of 0.9, 0.1, 0.59, 0.6: the threshold counts as success
    assert by_name["none"].strongest.asr.mean == 1.0 and by_name["none"].change is None
    assert (weak.seeds, weak.images) == (2, 4)
    assert section.only_static
    assert text.convergence(weak, 2) == "> 2 in 1 of 2 seeds"


def test_equal_asr_is_ranked_by_accuracy(tmp_path):
    run = write_run(tmp_path / "run", {("a", 0): [0.1, 0.2, 0.3], ("b", 0): [0.1, 0.2, 0.4]}, {("a", 0): [0.1], ("b", 0): [0.2]})
    assert [e.defense for e in entries(run)[1].entries] == ["b", "a"]


def test_without_the_undefended_model_there_is_no_comparison(tmp_path):
    run = write_run(tmp_path / "run", {("a", 0): [0.1, 0.2, 0.3]}, {("a", 0): [0.1]})
    entry = entries(run)[0]["a"]
    assert entry.change is None and entry.converged == [] and text.convergence(entry, 2) == "–"


def test_failed_and_missing_cells_are_named_and_not_ranked(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3], ("broken", 0): []}, {("none", 0): [0.9]}, missing=(("broken", 0),))
    broken = entries(run)[0]["broken"]
    assert broken.rank is None and broken.problems == ["seed 0: RuntimeError: broken"]
    row = shown(entries(run)[1], "broken")
    assert [row[f"ASR {what}"] for what in ("static", "adaptive", "worst case")] == ["not run"] * 3


def test_runs_of_one_protocol_are_joined_and_others_kept_apart(tmp_path):
    first = write_run(tmp_path / "a", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9]})
    second = write_run(tmp_path / "b", {("mine", 0): [0.1, 0.2, 0.3]}, {("mine", 0): [0.1]})
    longer = write_run(tmp_path / "c", {("none", 0): [0.1] * 6}, {("none", 0): [0.9]}, epochs=5)
    sections = build([results.read_run(r) for r in (first, second, longer, first)])
    assert [[e.defense for e in s.board.entries] for s in sections] == [["mine", "none"], ["none"]]
    assert sections[0].board.entries[1].images == 1  # the run given twice counts once


def test_an_adaptive_attack_lifts_the_caution(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9]}, tier="adaptive")
    assert not entries(run)[1].only_static


def test_an_oracle_bound_is_shown_but_does_not_rank(tmp_path):
    """It looks at the original, which no attacker can."""
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9, 0.7]}, tier="oracle bound")
    (section,) = build([results.read_run(run)])
    (entry,) = section.board.entries
    assert entry.rank is None and entry.strongest is None and section.board.has_oracle
    assert entry.attacks[0].asr.mean == 1 and entry.attacks[0].winners == {"a": 2}
    assert attack_table([entry])[1][0][-1].text == "2 x a"
    assert table([section.board])["won_by"].tolist() == ["a: 2"]


def test_flat_table(run):
    frame = table([section.board for section in build([results.read_run(run)])])
    assert frame["defense"].tolist() == ["strong", "weak", "none"]
    assert frame["asr"].tolist() == [0.0, 0.5, 1.0] and frame["epochs_to_converge"].isna().tolist() == [True, True, False]
    assert isinstance(frame, pd.DataFrame)


def test_time_and_memory_are_multiples_of_the_undefended_models(run):
    """Seconds of an epoch are 1 for seed 0 and 2 for seed 1, undefended 1; memory is the same."""
    by_name, board = entries(run)
    weak = by_name["weak"]
    assert weak.seconds_per_epoch == pytest.approx(1.5) and weak.time_ratio == pytest.approx(1.5)
    assert weak.step_memory == 1000 and weak.memory_ratio == 1.0
    assert by_name["none"].time_ratio is None and shown(board, "none")["time"] == "–"
    assert shown(board, "weak")["time"] == "1.50×" and shown(board, "weak")["memory"] == "1.00×"


def test_accuracy_is_that_of_the_last_epoch_though_an_earlier_one_was_better(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.9, 0.6], ("falling", 0): [0.1, 0.8, 0.3]}, {})
    by_name, _ = entries(run)
    assert by_name["none"].accuracy.mean == 0.6 and by_name["falling"].accuracy.mean == 0.3
    assert by_name["falling"].change.mean == pytest.approx(-0.3)
    assert by_name["falling"].converged == [None]  # 0.8 is less than 95 % of the undefended model's best, 0.9, which it lost again


def a_training(tmp_path, none, mine):
    """The entry ``mine`` of a run with one seed for each of the given columns of its training, and that of ``none``."""
    run = write_cells(tmp_path / "run", {
        ("d", "m", defense, seed): {"accuracies": [0.1, 0.2, 0.3, 0.4], "attacks": {}, "training": columns}
        for defense, seeds in (("none", none), ("mine", mine)) for seed, columns in enumerate(seeds)}, epochs=3, attacks=["a"], victims=1)
    return entries(run)[0]["mine"]


def test_the_privacy_budget_is_what_was_spent_by_the_last_epoch(tmp_path):
    """Of several seeds the most."""
    mine = a_training(tmp_path, [{}], [{"epsilon": [0.0, 1.0, 2.0, 2.5], "delta": [1e-5] * 4}, {"epsilon": [0.0, 1.5, 2.2, 2.75], "delta": [1e-5] * 4}])
    assert (mine.epsilon, mine.delta) == (2.75, 1e-5)


def test_times_are_compared_seed_by_seed(tmp_path):
    """The mean of 1 / 1 and 6 / 2, not 7 / 3; an epoch is the median of 1 to 3, and epoch 0 trains nothing."""
    mine = a_training(tmp_path, [{"seconds": [99.0, 1.0, 1.0, 7.0]}, {"seconds": [99.0, 2.0, 2.0, 2.0]}],
                      [{"seconds": [0.0, 1.0, 9.0, 1.0]}, {"seconds": [0.0, 6.0, 6.0, 6.0]}])
    assert mine.time_ratio == pytest.approx(2.0) and mine.seconds_per_epoch == pytest.approx(3.5)


def test_memory_is_the_most_of_any_step(tmp_path):
    mine = a_training(tmp_path, [{"step_memory": [None, 100, 200, 150]}], [{"step_memory": [None, 500, 100, None]}, {"step_memory": [None, 300, 300, 300]}])
    assert mine.step_memory == 500 and mine.memory_ratio == pytest.approx(2.5)


def test_the_change_is_against_the_undefended_model_of_the_same_seed(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.7, 0.8], ("none", 1): [0.1, 0.5, 0.6], ("none", 2): [0.1, 0.9, 0.99],
                                       ("mine", 0): [0.1, 0.2, 0.7], ("mine", 1): [0.1, 0.2, 0.7]}, {})
    change = entries(run)[0]["mine"].change  # seed 2 has nothing to be compared with
    assert (change.mean, change.low, change.high) == pytest.approx((0.0, -0.1, 0.1), abs=1e-9)
    assert entries(run)[0]["mine"].converged == [None, 2]


def test_tiers_are_shown_side_by_side_and_the_rank_goes_by_the_highest(tmp_path):
    """Of static, adaptive and worst-case attacks each tier shows its highest ASR over checkpoints."""
    scores = {(0, "a", "static"): [0.1, 0.9], (0, "b", "static"): [0.1, 0.2], (0, "c", "adaptive"): [0.9, 0.9],
              (2, "a", "static"): [0.1, 0.1], (0, "worst-case", "worst case"): [0.7, 0.1], (0, "oracle of worst-case", "oracle bound"): [0.9, 0.9]}
    strong = {key: [0.0, 0.0] for key in scores}
    run = write_cells(tmp_path / "run", {
        ("d", "m", "none", 0): {"accuracies": [0.1, 0.5, 0.8], "attacks": {key: [0.9, 0.9] for key in scores if "adaptive" not in key}},
        ("d", "m", "weak", 0): {"accuracies": [0.1, 0.5, 0.9], "attacks": scores},
        ("d", "m", "strong", 0): {"accuracies": [0.1, 0.2, 0.2], "attacks": strong}}, epochs=2, attacks=["worst-case"], victims=2)
    _, board = entries(run)
    row = shown(board, "weak")
    assert [row[f"ASR {what}"].split()[0] for what in ("static", "adaptive", "worst case", "untrained", "after 2 epochs")] == [
        "0.50", "1.00", "1.00", "1.00", "0.00"]
    assert row["strongest attack"] == "c, untrained"
    assert shown(board, "none")["ASR adaptive"] == "none applies" and board.has_worst_case and not board.only_static
    assert [(e.defense, e.rank, e.pareto) for e in board.entries] == [("strong", 1, True), ("weak", 2, True), ("none", 3, False)]
    assert shown(board, "weak")["defense"] == "weak ★"


def test_the_description_of_a_run_is_checked(tmp_path):
    import json
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9]})
    manifest = json.loads((run / "run.json").read_text())
    from benchmark.errors import InputError
    for change, message in ((lambda m: m["grid"].pop("training"), "lacks 'training'"),
                            (lambda m: m["determinants"]["portfolio"].update(version="x"), r"portfolio.version: .* got 'x'")):
        broken = json.loads(json.dumps(manifest))
        change(broken)
        (run / "run.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=message):
            build([results.read_run(run)])


def test_the_overview_is_ordered_by_the_mean_over_boards(tmp_path):
    def cell(accuracy, asr):
        return {"accuracies": [0.1, accuracy], "attacks": {(0, "a", "static"): [0.9] * asr + [0.1] * (4 - asr)}}
    run = write_cells(tmp_path / "run", {
        ("d", "m", "x", 0): cell(0.5, 2), ("d", "m", "y", 0): cell(0.4, 1), ("d", "m", "z", 0): cell(0.9, 3),
        ("e", "m", "x", 0): cell(0.5, 2), ("e", "m", "y", 0): cell(0.4, 4)}, epochs=1, attacks=["a"], victims=4)
    boards = [section.board for section in build([results.read_run(run)])]
    assert [(entry.defense, [value.text for value in values]) for entry, values in overview(boards)] == [
        ("x", ["0.50 · 0.50 ★", "0.50 · 0.50 ★"]), ("y", ["0.25 · 0.40 ★", "1.00 · 0.40"]), ("z", ["0.75 · 0.90 ★", "not run"])]
