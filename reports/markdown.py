"""The leaderboard as Markdown, for a README or an issue."""

from __future__ import annotations

from benchmark.store.tables import SUCCESS_SSIM
from reports import text
from reports.columns import attack_table, board_columns, identification_table, overview
from reports.boards import Board

#: What the numbers mean, and what they do not show.
_READING = (
    "Ranked by the ASR of the worst case at the checkpoint where it is highest, then by test accuracy. ASR: share of images "
    f"rebuilt with SSIM ≥ {SUCCESS_SSIM}, with its 95 % Wilson interval. Blind attackers know nothing of the defense, "
    "informed ones what it discloses. The worst case is, of each victim, the likeliest of all reconstructions by what an "
    "informed attacker observed; the blind one is chosen among those of blind attackers, by what these observed. The oracle "
    "bound is chosen by looking at the original; no attacker can, and it does not count in the ranking. Test accuracy: "
    "after the last epoch, mean over seeds with a 95 % bootstrap interval; change, time and memory: against the undefended "
    "model. Epochs to converge: to 95 % of its best accuracy. ★: on the Pareto front of test accuracy and worst-case ASR.")


def markdown(boards: list[Board]) -> str:
    """All boards, with how to read them."""
    parts = ["# Leakboard", f"**{text.UNFINISHED}**"]
    if len(boards) > 1:
        parts += [f"{text.overview(boards)}; ★ is on the Pareto front of ASR and accuracy.", overview_table(boards)]
    for board in boards:
        header, rows = attack_table(board.entries)
        parts += [f"## {table_cell(board.title)}", f"{table_cell(text.protocol(board))}.",
                  *([f"**{text.ONLY_BLIND}**"] if board.only_blind else []),
                  *([] if board.protocol.evaluation.candidates else [f"**{text.NOT_IDENTIFIED}**"]), board_table(board), _READING,
                  *_problems(board), *_identification(board),
                  "### Every attack", markdown_table(header, [[value.text for value in row] for row in rows])]
    return "\n\n".join(parts) + "\n"


def overview_table(boards: list[Board]) -> str:
    """A row per defense, a column per board."""
    return markdown_table(["defense", *(board.title for board in boards)],
                          [[text.labelled(entry), *(value.text for value in values)] for entry, values in overview(boards)])


def board_table(board: Board) -> str:
    """The ranked table alone."""
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


def _problems(board: Board) -> list[str]:
    lines = [f"- {table_cell(entry.defense)}: {table_cell(problem)}" for entry in board.entries for problem in entry.problems]
    return ["Cells without a result:\n\n" + "\n".join(lines)] if lines else []
