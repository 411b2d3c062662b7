"""The leaderboard from tables made by hand."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from report_cases import write_cells, write_run

from benchmark.errors import InputError
from benchmark.store import results
from reports import text
from reports.columns import board_columns
from reports.detail_tables import attack_table
from reports.entries import AttackResult
from reports.flat_tables import table
from reports.leaderboard import build
from reports.markdown import markdown
from reports.statistics import share


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


def ranks(board):
    return [(family.rank, family.name) for family in board.families]


def shown(board, defense):
    """The texts of a row by the title of their column."""
    (entry,) = (entry for entry in board.entries if entry.defense == defense)
    return {column.title: column.value(entry).text for column in board_columns(board)}


def test_by_hand(run):
    by_name, section = entries(run)
    assert ranks(section) == [(1, "none"), (2, "strong"), (3, "weak")]  # nothing is safe without identification; free is the undefended one
    assert [e.defense for e in section.entries] == ["none", "strong", "weak"]
    weak = by_name["weak"]
    assert weak.accuracy.mean == pytest.approx(0.745) and (weak.accuracy.low, weak.accuracy.high) == (0.7, 0.79)
    assert weak.change.mean == pytest.approx(((0.79 - 0.8) + (0.7 - 0.9)) / 2)
    assert weak.converged == [2, None]  # 0.79 >= 0.95 * 0.8, but 0.7 < 0.95 * 0.9
    assert weak.worst_case.asr.mean == 0.5  # 0.9 and 0.6 of 0.9, 0.1, 0.59, 0.6: the threshold counts as success
    assert by_name["none"].worst_case.asr.mean == 1.0 and by_name["none"].change is None
    assert (weak.seeds, weak.images) == (2, 4)
    assert section.undefended == "none" and not section.only_blind
    assert text.convergence(weak, 2) == "> 2 in 1 of 2 seeds"


def test_without_the_undefended_model_there_is_no_comparison(tmp_path):
    run = write_run(tmp_path / "run", {("a", 0): [0.1, 0.2, 0.3]}, {("a", 0): [0.1]})
    entry = entries(run)[0]["a"]
    assert entry.change is None and entry.converged == [] and text.convergence(entry, 2) == "–"


def test_failed_and_missing_cells_are_named_and_not_ranked(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3], ("broken", 0): []}, {("none", 0): [0.9]}, missing=(("broken", 0),))
    broken = entries(run)[0]["broken"]
    assert ranks(entries(run)[1]) == [(1, "none"), (None, "broken")] and broken.problems == ["seed 0: RuntimeError: broken"]
    row = shown(entries(run)[1], "broken")
    assert [row[what] for what in ("ASR blind", "ASR, single", "ASR oracle bound")] == ["not run"] * 3


def test_runs_of_one_protocol_are_joined_and_others_kept_apart(tmp_path):
    first = write_run(tmp_path / "a", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9]})
    second = write_run(tmp_path / "b", {("mine", 0): [0.1, 0.2, 0.3]}, {("mine", 0): [0.1]})
    longer = write_run(tmp_path / "c", {("none", 0): [0.1] * 6}, {("none", 0): [0.9]}, epochs=5)
    sections = build([results.read_run(r) for r in (first, second, longer, first)])
    assert [[e.defense for e in s.board.entries] for s in sections] == [["mine", "none"], ["none"]]
    assert sections[0].board.entries[1].images == 1  # the run given twice counts once


def test_a_board_of_blind_attackers_alone_ranks_by_what_is_there(tmp_path):
    cells = {("none", 0): [0.1, 0.2, 0.3], ("mine", 0): [0.1, 0.2, 0.2]}
    ssims = {("none", 0): [0.9, 0.7], ("mine", 0): [0.9, 0.1]}
    _, board = entries(write_run(tmp_path / "run", cells, ssims, knowledge="blind", known=("blind",)))
    assert board.only_blind and ranks(board) == [(1, "none"), (2, "mine")] and board.families[1].leakage == 0.5
    row = shown(board, "mine")
    assert row["ASR blind"] == row["ASR, single"] and row["ASR blind"].startswith("0.50")
    assert not entries(write_run(tmp_path / "informed", cells, ssims, knowledge="informed"))[1].only_blind


def test_informed_attackers_alone_have_no_blind_rate(tmp_path):
    run = write_run(tmp_path / "run", {("mine", 0): [0.1, 0.2, 0.3]}, {("mine", 0): [0.9, 0.1]}, knowledge="informed", known=("informed",))
    by_name, board = entries(run)
    assert by_name["mine"].blind is None and ranks(board) == [(1, "mine")]
    assert shown(board, "mine")["ASR blind"] == "not run" and shown(board, "mine")["ASR, single"].startswith("0.50")


def test_attacks_that_do_not_apply_say_so_with_their_knowledge(tmp_path):
    reason = "needs a bottleneck"
    cell = {"accuracies": [0.1, 0.2], "attacks": {(0, "a", "informed"): [0.9]}}
    obstacles = {"obstacles": [(0, "a", "blind", reason)]}
    run = write_cells(tmp_path / "run", {("d", "m", "other", 0): cell, **{("d", "m", "mine", seed): {**cell, **obstacles} for seed in (0, 1)}},
                      epochs=1, attacks=["a"], victims=1)
    by_name, board = entries(run)
    entry = by_name["mine"]
    assert not any(result.reason for result in by_name["other"].attacks)
    assert [(r.kind, r.attack, r.knowledge, r.reason) for r in entry.attacks] == [
        ("worst case", "worst case", "informed", ""), ("oracle bound", "oracle bound", "", ""), ("attack", "a", "blind", reason), ("attack", "a", "informed", "")]
    assert shown(board, "mine")["ASR blind"] == "does not apply" and shown(board, "mine")["ASR, single"].startswith("1.00")
    rows = attack_table([entry])[1]
    assert [value.text for value in rows[2]][:6] == ["mine", "of single images", "untrained", "a", "blind", f"does not apply: {reason}"]


def test_inferred_labels_are_counted_per_attack(tmp_path):
    """Of the worst case those of the attack that was chosen for each victim; where they were given there is no share."""
    attacks = {(0, "a", "both"): {"ssim": [0.5] * 4, "score": [1.0, 1.0, 9.0, 9.0], "label_correct": [True, False, True, True]},
               (0, "b", "both"): {"ssim": [0.5] * 4, "score": [5.0] * 4, "label_correct": [True, True, False, False]},
               (0, "c", "both"): {"ssim": [0.5] * 4, "score": [99.0] * 4}}
    run = write_cells(tmp_path / "run", {("d", "m", "mine", 0): {"accuracies": [0.1, 0.2], "attacks": attacks}}, epochs=1, attacks=["a", "b", "c"], victims=4)
    entry = entries(run)[0]["mine"]
    assert {result.attack: result.label_accuracy for result in entry.attacks if result.kind == "attack"} == {"a": 0.75, "b": 0.5, "c": None}
    assert entry.worst_case.label_accuracy == 0.25


def test_a_cell_without_all_attacks_is_not_finished(tmp_path):
    import shutil
    cells = {("d", "m", "mine", seed): {"accuracies": [0.1, 0.2], "attacks": {(0, name, "both"): [0.5] for name in "ab"}} for seed in (0, 1)}
    run = write_cells(tmp_path / "run", cells, epochs=1, attacks=["a", "b"], victims=1)
    shutil.rmtree(next(run.glob("cells/*/attack-*")))
    assert entries(run)[0]["mine"].seeds == 1 and len(entries(run)[0]["mine"].problems) == 1


def test_the_undefended_model_is_the_one_that_the_run_names(tmp_path):
    """By whatever name: no report knows the name of a defense."""
    import json
    run = write_run(tmp_path / "run", {("plain", 0): [0.1, 0.7, 0.8], ("mine", 0): [0.1, 0.2, 0.7]}, {})
    assert entries(run)[0]["mine"].change is None and entries(run)[1].undefended is None
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "undefended": "plain"}))
    by_name, board = entries(run)
    assert board.undefended == "plain" and by_name["mine"].change.mean == pytest.approx(-0.1) and by_name["plain"].change is None


def test_an_oracle_bound_is_shown_but_does_not_rank(tmp_path):
    """It looks at the original, which no attacker can: who settles on what rebuilds the other victim rebuilds neither."""
    place = ("d", "m", "mine", 0)
    attacks = {(0, "a", "informed"): {"ssim": [0.1, 0.7], "score": [0.0, 0.0]}, (0, "b", "informed"): {"ssim": [0.9, 0.2], "score": [1.0, 1.0]}}
    run = write_cells(tmp_path / "run", {place: {"accuracies": [0.1, 0.2], "attacks": attacks}}, epochs=1, attacks=["a", "b"], victims=2)
    (section,) = build([results.read_run(run)])
    (entry,) = section.board.entries
    assert entry.worst_case.asr.mean == 0 and entry.worst_case.winners == {"informed a": 1, "informed b": 1} and entry.measured == (0.2, 0.0)
    assert entry.oracle_bound.asr.mean == 1 and entry.oracle_bound.winners == {"informed a": 1, "informed b": 1}
    assert [row[3].text for row in attack_table([entry])[1]] == ["worst case", "oracle bound", "a", "b"]
    assert attack_table([entry])[1][1][-1].text == "1 x informed a, 1 x informed b"
    assert table([section.board])["chosen_from"].tolist() == ["informed a: 1; informed b: 1"] * 2 + ["", ""]
    assert table([section.board])["kind"].tolist() == ["worst case", "oracle bound", "attack", "attack"]
    assert shown(section.board, "mine")["ASR oracle bound"].startswith("1.00")


def test_flat_table(run):
    frame = table([section.board for section in build([results.read_run(run)])])
    kinds = [("worst case", "informed"), ("worst case", "blind"), ("oracle bound", ""), ("attack", "both")]
    assert list(zip(frame["defense"], frame["kind"], frame["knowledge"], strict=True)) == [
        (defense, *kind) for defense in ("none", "strong", "weak") for kind in kinds]
    worst = frame[(frame["kind"] == "worst case") & (frame["knowledge"] == "informed")]
    assert worst["asr"].tolist() == [1.0, 0.0, 0.5] and worst["epochs_to_converge"].isna().tolist() == [False, True, True]
    assert worst["rank"].tolist() == [1, 2, 3] and worst["images"].tolist() == [4, 4, 4] and set(frame["observed"]) == {"single"}
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


def test_blind_and_informed_are_shown_side_by_side(tmp_path):
    """Each at the checkpoint where its rate is highest; where the choice by scores rebuilds most, it is taken."""
    scores = {
        (0, "a", "blind"): {"ssim": [0.1, 0.9, 0.1, 0.1], "score": [5.0] * 4, "blind_score": [1.0] * 4},
        (0, "b", "blind"): {"ssim": [0.1, 0.1, 0.1, 0.1], "score": [5.0] * 4, "blind_score": [2.0] * 4},
        (0, "a", "informed"): {"ssim": [0.9, 0.1, 0.9, 0.9], "score": [1.0, 9.0, 1.0, 1.0]},
        (2, "a", "blind"): {"ssim": [0.1] * 4, "score": [5.0] * 4, "blind_score": [1.0] * 4}}
    none = {(epoch, name, "both"): [0.9] * 4 for epoch in (0, 2) for name in ("a", "b")}
    run = write_cells(tmp_path / "run", {
        ("d", "m", "none", 0): {"accuracies": [0.1, 0.5, 0.8], "attacks": none},
        ("d", "m", "weak", 0): {"accuracies": [0.1, 0.5, 0.9], "attacks": scores},
        ("d", "m", "strong", 0): {"accuracies": [0.1, 0.2, 0.2], "attacks": {key: [0.0] * 4 for key in scores}}},
        epochs=2, attacks=["a", "b"], victims=4)
    _, board = entries(run)
    row = shown(board, "weak")
    assert [row[what].split()[0] for what in ("ASR blind", "ASR, single", "ASR oracle bound", "ASR untrained", "ASR after 2 epochs")] == [
        "0.25", "1.00", "1.00", "1.00", "0.00"]
    assert row["strongest attacks"] == "3 x informed a, 1 x blind a; untrained"
    assert shown(board, "none")["ASR blind"] == shown(board, "none")["ASR, single"] and not board.only_blind
    assert {e.defense: e.pareto for e in board.entries} == {"strong": True, "weak": True, "none": False}
    assert shown(board, "weak")["defense"] == "weak ★"


def test_an_attack_that_is_added_later_changes_the_choice(tmp_path):
    attacks = {(0, "a", "informed"): {"ssim": [0.2, 0.2], "score": [2.0, 2.0]}, (0, "b", "informed"): {"ssim": [0.9, 0.1], "score": [1.0, 3.0]}}
    found = []
    for names in (["a"], ["a", "b"]):
        run = write_cells(tmp_path / str(len(names)), {("d", "m", "mine", 0): {"accuracies": [0.1, 0.2], "attacks": attacks}},
                          epochs=1, attacks=names, victims=2)
        found.append(entries(run)[0]["mine"].worst_case)
    assert [worst.winners for worst in found] == [{"informed a": 2}, {"informed b": 1, "informed a": 1}]
    assert [worst.asr.mean for worst in found] == [0.0, 0.5]
    assert [worst.seconds_per_victim for worst in found] == [2.0, 4.0]  # both were run to choose among them


def test_of_many_attacks_a_cell_names_those_chosen_most():
    result = AttackResult("worst case", "worst case", "informed", 3, "single", winners={"a": 9, "b": 5, "c": 4, "d": 1, "e": 1})
    assert text.winners(result) == "9 x a, 5 x b, 4 x c, and 2 more"
    assert text.strongest(result) == "9 x a, 5 x b, 4 x c, and 2 more; after 3 epochs" and text.strongest(None) == "–"


def test_the_protocol_groups_the_settings_of_an_attack(tmp_path):
    names = ["dlg(iterations=1)", "dlg(iterations=2)", "analytic", "dlg(iterations=3)", "tags(x=1)"]
    run = write_cells(tmp_path / "run", {("d", "m", "mine", 0): {"accuracies": [0.1, 0.2], "attacks": {}}}, epochs=1, attacks=names, victims=2)
    assert "attackers blind and informed: dlg (3 settings), analytic, tags(x=1) (portfolio 1);" in text.protocol(entries(run)[1])


def test_the_description_of_a_run_is_checked(tmp_path):
    import json
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9]})
    manifest = json.loads((run / "run.json").read_text())
    for change, message in ((lambda m: m["grid"].pop("training"), "lacks 'training'"),
                            (lambda m: m["grid"].pop("tuning"), "lacks 'tuning'"),
                            (lambda m: m.pop("families"), "families: field required"),
                            (lambda m: m["determinants"].update(portfolio="x"), r"portfolio: .* got 'x'"),
                            (lambda m: m["grid"]["evaluation"].update(knowledge=["all"]), r"evaluation.knowledge.0: .* got 'all'"),
                            (lambda m: m.pop("undefended"), "undefended: field required")):
        broken = json.loads(json.dumps(manifest))
        change(broken)
        (run / "run.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=message):
            build([results.read_run(run)])


@pytest.mark.parametrize("found", [1, 5, 7, None])
def test_runs_of_another_format_are_refused_in_one_line(tmp_path, found):
    import json

    path = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {}) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": found}))
    with pytest.raises(InputError) as error:
        results.read_run(path.parent)
    assert str(error.value) == f"{path} has format {found}, expected 6" + (
        ": an earlier version made it, which trained all defenses alike; run the grid again (leakboard run), its models have to be trained again too"
        if found in (1, 5) else "")


def test_a_table_of_unknown_knowledge_is_named(tmp_path):
    run = write_run(tmp_path / "run", {("mine", 0): [0.1, 0.2, 0.3]}, {("mine", 0): [0.9]}, knowledge="adaptive")
    with pytest.raises(InputError, match=r"reconstructions\.parquet: knowledge must be one of blind, informed, both, got 'adaptive'"):
        results.read_run(run)
    assert list(results.damage(next(run.glob("cells/*")))) == [next(run.glob("cells/*/attack-*")).name]


def test_tables_of_another_cell_are_refused(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3], ("mine", 0): [0.1, 0.2, 0.4]}, {("none", 0): [0.9], ("mine", 0): [0.1]})
    first, second = sorted((run / "cells").iterdir())
    shutil.copy(first / "trained" / "training.parquet", second / "trained")
    with pytest.raises(InputError, match=rf"{second.name}: a table has rows of defense '(none|mine)', expected '(none|mine)'; remove the folder"):
        results.read_run(run)


def test_images_of_batches_are_recovered_above_19_db(tmp_path):
    """Whatever their SSIM, and an infinite PSNR too; in every form, beside ASR, and of single images in the table of attacks alone."""
    found = {"ssim": [0.9, 0.1, 0.1, 0.1], "psnr": [10.0, 19.0, 19.01, math.inf]}
    run = write_cells(tmp_path / "run", {("d", "m", "none", 0): {
        "accuracies": [0.1, 0.5], "attacks": {(0, "a", "both", "4"): found, (0, "a", "both", "single"): {"ssim": [0.1], "psnr": [30.0]}}}},
        epochs=1, attacks=["a"], victims=1, observed=("4", "single"))
    by_name, board = entries(run)
    entry = by_name["none"]
    assert entry.seen("4").worst_case.recovered == share(2, 4) and entry.seen("4").worst_case.asr == share(1, 4)
    texts = shown(board, "none")
    titles = list(texts)
    assert titles[titles.index("ASR, 4 images") + 1] == "PSNR > 19 dB, 4 images" and texts["PSNR > 19 dB, 4 images"] == "0.50 [0.15, 0.85]"
    assert "PSNR > 19 dB, single" not in titles
    header, rows = attack_table([entry])
    place = header.index("PSNR > 19 dB")
    assert header[place - 1].startswith("ASR") and {row[place].text[:4] for row in rows} == {"0.50", "1.00"} and {len(row) for row in rows} == {len(header)}
    of_batches = table([board])[lambda rows: rows["observed"] == "4"]
    assert of_batches[["recovered", "recovered_low", "recovered_high"]].drop_duplicates().round(2).to_numpy().tolist() == [[0.5, 0.15, 0.85]]
    text_form = markdown([board])
    assert "| PSNR &gt; 19 dB, 4 images |" in text_form and "0.50 [0.15, 0.85]" in text_form
    assert shown(replace(board, entries=[replace(entry, attacks=[replace(result, recovered=None) for result in entry.attacks])]), "none")[
        "PSNR > 19 dB, 4 images"] == text.ABSENT
