"""The leaderboard as LaTeX tables, for a paper: packages booktabs and graphicx."""

from __future__ import annotations

import pandas as pd

from reports import text
from reports.columns import board_columns
from reports.boards import Board

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "★": r"$\star$", "×": r"$\times$", "ε": r"$\varepsilon$", "δ": r"$\delta$", "–": "--", "≥": r"$\geq$", "∞": r"$\infty$",
}


#: Columns that a paper has no width for; the other forms have them.
_LEFT_OUT = {"time", "memory", "PSNR (dB)", "identified at most", "bits leaked", "label inference", "seeds", "victims"}


def latex(boards: list[Board]) -> str:
    """One table per board, over both columns of a page."""
    needs = "% Needs the packages booktabs and graphicx; names beyond Latin script need LuaLaTeX or XeLaTeX with a font for them.\n"
    return needs + "\n".join(_table(board) for board in boards)


def _table(board: Board) -> str:
    columns = [column for column in board_columns(board) if column.shown and column.title not in _LEFT_OUT]
    rows = pd.DataFrame([[column.value(entry).text for column in columns] for entry in board.entries],
                        columns=[column.title for column in columns])
    tabular = rows.style.format(escape).format_index(escape, axis=1).hide(axis="index").to_latex(
        column_format="r" + "l" * (len(columns) - 1), hrules=True)
    seeds = sorted({entry.seeds for entry in board.entries if entry.seeds})
    note = f"{text.protocol(board)}; {'-'.join(map(str, seeds[:1] + seeds[1:][-1:])) or 'no'} seeds"
    return (
        f"\\begin{{table*}}\n\\centering\n\\resizebox{{\\linewidth}}{{!}}{{%\n{tabular.rstrip()}}}\n"
        f"\\caption{{{escape(board.title)}. {escape(note)}.}}\n\\end{{table*}}\n"
    )


def escape(content: str) -> str:
    """A text that stays text in LaTeX; pandas' own escaping leaves brackets, bars and the signs of our texts."""
    # A bracket at the start of a row would be read as the optional argument of the line break before it.
    escaped = "".join(_SPECIAL.get(character, character) for character in " ".join(content.split()))
    return "{}" + escaped if escaped.startswith("[") else escaped
