"""The leaderboard as LaTeX tables, for a paper: packages booktabs and graphicx."""

from __future__ import annotations

import pandas as pd

from reports import text
from reports.boards import Board
from reports.columns import Column, Row, board_columns, family_columns

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "★": r"$\star$", "×": r"$\times$", "ε": r"$\varepsilon$", "δ": r"$\delta$", "–": "--", "≥": r"$\geq$", "∞": r"$\infty$",
}


#: Columns that a paper has no width for; the other forms have them.
_LEFT_OUT = {"change", "sent", "time", "undefended"}


def latex(boards: list[Board]) -> str:
    """Two tables per board, of families and of their strengths, over both columns of a page."""
    needs = "% Needs the packages booktabs and graphicx; names beyond Latin script need LuaLaTeX or XeLaTeX with a font for them.\n"
    return needs + "\n".join(part for board in boards for part in (
        _table(board, family_columns(board), board.families, "Families of defenses, ranked by safe accuracy"),
        _table(board, board_columns(board), board.entries, "Their strengths")))


def _table(board: Board, every: list[Column[Row]], rows: list[Row], what: str) -> str:
    columns = [column for column in every if column.shown and column.title not in _LEFT_OUT]
    frame = pd.DataFrame([[column.value(row).text for column in columns] for row in rows],
                         columns=[column.title for column in columns])
    tabular = frame.style.format(escape).format_index(escape, axis=1).hide(axis="index").to_latex(
        column_format="r" + "l" * (len(columns) - 1), hrules=True)
    seeds = sorted({entry.seeds for entry in board.entries if entry.seeds})
    note = ". ".join([f"{text.protocol(board)}; {'-'.join(map(str, seeds[:1] + seeds[1:][-1:])) or 'no'} seeds",
                      *(caution.rstrip(".") for caution in text.cautions(board))])
    return (
        f"\\begin{{table*}}\n\\centering\n\\resizebox{{\\linewidth}}{{!}}{{%\n{tabular.rstrip()}}}\n"
        f"\\caption{{{escape(board.title)}. {what}. {escape(note)}.}}\n\\end{{table*}}\n"
    )


def escape(content: str) -> str:
    """A text that stays text in LaTeX; pandas' own escaping leaves brackets, bars and the signs of our texts."""
    # A bracket at the start of a row would be read as the optional argument of the line break before it.
    escaped = "".join(_SPECIAL.get(character, character) for character in " ".join(content.split()))
    return "{}" + escaped if escaped.startswith("[") else escaped
