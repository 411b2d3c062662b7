"""The table over all boards."""

from __future__ import annotations

from board_cases import board, entry
from report_cases import write_cells

from benchmark.store import results
from reports.families import ranked
from reports.leaderboard import build
from reports.overview import overview


def test_the_overview_is_ordered_by_the_mean_rank_over_boards(tmp_path):
    def cell(accuracy, asr, better=0):
        return {"accuracies": [0.1, accuracy], "attacks": {(0, "a", "both"): [0.9] * asr + [0.1] * (64 - asr)},
                "identifications": {(0, "both"): {"better": [99] * better + [0] * (64 - better)}}}
    run = write_cells(tmp_path / "run", {
        ("d", "m", "x", 0): cell(0.5, 0, 64), ("d", "m", "y", 0): cell(0.4, 16), ("d", "m", "z", 0): cell(0.9, 0, 64), ("d", "m", "chance", 0): cell(0.1, 0),
        ("e", "m", "x", 0): cell(0.5, 64), ("e", "m", "y", 0): cell(0.4, 0, 64)}, epochs=1, attacks=["a"], victims=64, candidates=100)
    boards = [section.board for section in build([results.read_run(run)])]
    assert [[(family.rank, family.name) for family in board.families] for board in boards] == [[(1, "z"), (2, "x"), (3, "y"), (None, "chance")], [(1, "y"), (2, "x")]]
    assert [(row.defense, [value.text for value in row.values]) for row in overview(boards)] == [
        ("z", ["0.900", "not run"]), ("x", ["0.500", "leaks 1.00"]), ("y", ["leaks 1.00", "0.400"]), ("chance", ["at chance", "not run"])]


def test_the_overview_has_a_row_per_defense_whoever_entered_it():
    """Its best family on each board, of any entry; compositions are defenses of their own."""
    first = ranked(board(entry("a(p=1)", 0.6, family="a(p)", submission="x"), entry("a(p='(', q=2)", 0.7, family="a(p, q='(')", submission="y"),
                         entry("a(p=1)+b", 0.5, hits=64, family="a(p)+b")))
    second = ranked(board(entry("b", 0.4)))
    rows = overview([first, second])
    assert [(row.defense, [value.text for value in row.values]) for row in rows] == [
        ("a", ["0.700", "not run"]), ("b", ["not run", "0.400"]), ("a+b", ["leaks 0.50", "not run"])]
    assert rows[0].family.submission == "y"
