"""The leaderboard as Markdown, for a README or an issue."""

from __future__ import annotations

from benchmark.store.tables import RECOVERED_PSNR, SUCCESS_SSIM
from reports import text
from reports.boards import Board
from reports.columns import board_columns, family_columns
from reports.detail_tables import attack_table, identification_table, trial_table
from reports.overview import overview
from reports.titles import titles

#: What the numbers mean, and what they do not show.
_READING = (
    "Families are ranked by safe accuracy: the test accuracy of the safe strength that did best on validation images. Safe: with "
    "95 % confidence the worst-case ASR is at most 5 %, and top-1 identification among 100 candidates at most 5 points above "
    "chance. Families without a safe strength come behind, by free privacy: the least leakage, the higher of both rates, of a "
    f"strength that loses at most 2 points of accuracy. ASR: share of images rebuilt with SSIM ≥ {SUCCESS_SSIM}, with its 95 % "
    "Wilson interval, at the checkpoint where it is highest; of each victim the likeliest of all reconstructions by what an "
    f"attacker who knows the defense observed. PSNR > {RECOVERED_PSNR:g} dB: share of the images of batches that the same "
    "reconstructions recover so well, with its interval; nothing is ranked by it. The gradient is of as many images as the defense "
    "trains on (as trained), or of one (single). Test accuracy: after the last epoch, mean over seeds with a 95 % bootstrap "
    "interval; change, time and sent bytes: against the undefended model. A model that does no better than to name the most "
    "frequent class counts nowhere. ★: on the Pareto front of test accuracy and worst-case ASR.")


def markdown(boards: list[Board]) -> str:
    """All boards, with how to read them."""
    parts = ["# Leakboard"]
    if len(boards) > 1:
        parts += [f"{text.overview(boards)}.", overview_table(boards)]
    for board, title in zip(boards, _titles(boards), strict=True):
        header, rows = attack_table(board.entries)
        epsilon = board.protocol.tuning is not None and any(entry.epsilon is not None for entry in board.entries)
        parts += [f"## {table_cell(title)}", f"{table_cell(text.protocol(board))}.",
                  *(f"**{caution}**" for caution in text.cautions(board)), family_table(board), _READING,
                  *[text.TUNING_COSTS] * epsilon,
                  "### Strengths", board_table(board), *_problems(board), *_identification(board), *_trials(board),
                  "### Every attack", markdown_table(header, [[value.text for value in row] for row in rows])]
    return "\n\n".join(parts) + "\n"


def overview_table(boards: list[Board]) -> str:
    """A row per defense, a column per board."""
    return markdown_table(["defense", *_titles(boards)],
                          [[row.defense, *(value.text for value in row.values)] for row in overview(boards)])


def _titles(boards: list[Board]) -> list[str]:
    return titles([(board.title, board.protocol) for board in boards])


def family_table(board: Board) -> str:
    """The ranked table alone."""
    columns = [column for column in family_columns(board) if column.shown]
    return markdown_table([column.title for column in columns],
                          [[column.value(family).text for column in columns] for family in board.families])


def board_table(board: Board) -> str:
    """The table of points alone."""
    columns = [column for column in board_columns(board) if column.shown]
    return markdown_table([column.title for column in columns],
                          [[column.value(entry).text for column in columns] for entry in board.entries])


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; what means something to Markdown or HTML stays text in cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(table_cell(cell) for cell in line) + " |" for line in lines)


def table_cell(cell: str) -> str:
    """A text that stays text in a Markdown table."""
    for character in "\\&|<>`*_[]":
        if character in cell and not (character in "[]_" and _harmless(cell)):
            cell = cell.replace(character, {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(character, "\\" + character))
    return " ".join(cell.split())


def _harmless(cell: str) -> bool:
    """Square brackets make no link without a parenthesis right behind, and underscores within words no emphasis."""
    return "](" not in cell and " _" not in cell and "_ " not in cell and not cell.startswith("_")


def _identification(board: Board) -> list[str]:
    columns, rows = identification_table(board.entries)
    if not rows:
        return []
    shown = [place for place, (_, _, shown) in enumerate(columns) if shown]
    return ["### Identification", text.IDENTIFICATION, markdown_table(
        [columns[place][0] for place in shown], [[row[place].text for place in shown] for row in rows])]


def _trials(board: Board) -> list[str]:
    header, rows = trial_table(board.entries)
    return ["### Trials", markdown_table(header, [[value.text for value in row] for row in rows])] if rows else []


def _problems(board: Board) -> list[str]:
    lines = [f"- {table_cell(entry.defense)}: {table_cell(problem)}" for entry in board.entries for problem in entry.problems]
    return ["Cells without a result:\n\n" + "\n".join(lines)] if lines else []
