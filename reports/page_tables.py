"""The tables of pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from reports import claim_documents, text
from reports.boards import Board, Family
from reports.cells import LAST, RECOVERED, Value
from reports.claim_documents import Claims
from reports.columns import Column, board_columns, entry_columns, family_columns
from reports.detail_tables import attack_table, identification_table
from reports.drawing import INK
from reports.entries import Entry
from reports.overview import overview
from reports.plan import Plan


@dataclass(frozen=True)
class Heading:
    """A column of a table: its title and meaning, whether it is shown at first, and whether on a narrow screen too."""

    title: str
    meaning: str = ""
    shown: bool = True
    narrow: bool = True


@dataclass(frozen=True)
class Table:
    """A table of a page; rows have a link and a colour, where there are any."""

    caption: str
    columns: list[Heading]
    rows: list[list[Value]]
    links: list[str]
    colours: list[str]


class Tables:
    """The tables of one report."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def families(self, board: Board) -> Table:
        """The ranked one of a board."""
        columns = family_columns(board)
        return Table("Families of defenses, ranked by safe accuracy", _headings(columns),
                     [[column.value(family) for column in columns] for family in board.families],
                     [self.link(family.standing(board.ranked_by).safe or family.defenses[0], family.submission)
                      for family in board.families],
                     [self._colour(family.name) for family in board.families])

    def strengths(self, board: Board) -> Table:
        """The points of a board."""
        columns = board_columns(board)
        return Table("Every strength", _headings(columns), [[column.value(entry) for column in columns] for entry in board.entries],
                     *self._marks(board.entries))

    def attacks(self, entries: Sequence[Entry], *, own: bool = False) -> Table:
        """Every attack on some entries, or on an only one."""
        header, rows = attack_table(list(entries))
        headings = [Heading(title, narrow=title != RECOVERED) for title in header]
        return self._of_entries("Every attack at every checkpoint", headings, rows,
                                [entry for entry in entries for _ in entry.attacks], own)

    def identifications(self, entries: Sequence[Entry], *, own: bool = False) -> Table:
        """Every identification under some entries, or under an only one."""
        header, rows = identification_table(list(entries))
        return self._of_entries("Identification at every checkpoint", [Heading(*column) for column in header], rows,
                                [entry for entry in entries for _ in (*entry.identifications, *entry.unidentified)], own)

    def of_defense(self, found: list[tuple[Board, str, str, Entry]]) -> Table:
        """A row per board, with its page and title, that has a defense."""
        columns = [column.title for column in entry_columns(found[0][0]) if column.title not in ("defense", "all parameters")]
        on_boards = [{column.title: column for column in entry_columns(board)} for board, *_ in found]
        # Boards of other modes have other columns.
        columns = list(dict.fromkeys([*columns, *(title for titles in on_boards for title in titles
                                                  if title not in ("defense", "all parameters"))]))
        headings = [Heading("data set, model")]
        for title in columns:
            of = [titles[title] for titles in on_boards if title in titles]
            # Shown where it is on any of the boards.
            headings.append(Heading(title, of[0].meaning, any(column.shown for column in of), any(column.narrow for column in of)))
        absent = Value(text.ABSENT, LAST)
        rows = [[Value(title), *(titles[name].value(entry) if name in titles else absent for name in columns)]
                for (_, _, title, entry), titles in zip(found, on_boards, strict=True)]
        return Table("All results", headings, rows, [f"{page}.html" for _, page, _, _ in found], [])

    def overview(self, boards: list[Board]) -> Table:
        """A row per defense, and what counts of it on each board."""
        found = overview(boards)
        columns = [Heading(title, text.protocol(board)) for board, title in zip(boards, self._plan.titles, strict=True)]
        return Table(text.overview(boards), [Heading("defense"), *columns], [[Value(row.defense), *row.values] for row in found],
                     [self.link(row.family.defenses[0], row.family.submission) for row in found],
                     [self._colour(row.family.name) for row in found])

    def link(self, defense: str, submission: str) -> str:
        """The page of a defense."""
        return f"{self._plan.defense_pages[defense, submission]}.html"

    def _of_entries(self, caption: str, columns: list[Heading], rows: list[list[Value]], entries: list[Entry], own: bool) -> Table:
        if own:
            return Table(caption, columns[1:], [row[1:] for row in rows], [], [])
        return Table(caption, columns, rows, *self._marks(entries))

    def _marks(self, entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
        return ([self.link(entry.defense, entry.submission) for entry in entries],
                [self._colour(entry.family) for entry in entries])

    def _colour(self, family: str) -> str:
        colour = self._plan.palette.families[family].colour
        return "var(--ink)" if colour == INK else colour


def claim_table(claims: Claims) -> Table:
    """That of the claims."""
    return Table("Claims", [Heading(title, narrow=title not in ("source", "reported")) for title in claim_documents.HEADER],
                 [[Value(cell) for cell in claim_documents.cells(claim)] for claim in claims.claims], [], [])


def _headings(columns: Sequence[Column[Entry]] | Sequence[Column[Family]]) -> list[Heading]:
    return [Heading(column.title, column.meaning, column.shown, column.narrow) for column in columns]


def body(table: Table, link_column: int) -> Markup:
    """The rows of a table as HTML. A report has a hundred thousand cells, each of which a template takes ten times as long for."""
    classes = ['class="more"' if not column.shown else 'class="broad"' if not column.narrow else "" for column in table.columns]
    lines = []
    for number, row in enumerate(table.rows):
        cells = [shown(value) for value in row]
        if 0 <= link_column < len(row):
            if table.links:
                cells[link_column] = f'<a href="{escape(table.links[number])}">{breakable(row[link_column].text)}</a>'
            if table.colours:
                cells[link_column] = (f'<span class="swatch" style="background:{escape(table.colours[number])}"></span>'
                                      + cells[link_column])
        places = ["" if value.order is None else f'data-order="{value.order if value.order < 1e300 else "1e300"}"' for value in row]
        lines += ["<tr>", *(f"<td {kind} {place}>{cell}</td>" for kind, place, cell in zip(classes, places, cells, strict=True)),
                  "</tr>"]
    return Markup("\n".join(lines))


def shown(value: Value) -> str:
    """A value as HTML: of a number the interval, which takes a line of its own where there is little room."""
    escaped = str(escape(value.text))
    if value.order is None or " [" not in escaped:
        return escaped
    return re.sub(r"( \[[^\]]*\])", r'<span class="interval">\1</span>', escaped, count=1)


def breakable(text_of: str) -> Markup:
    """A long name as HTML, which may be broken where a person would."""
    return Markup(re.sub(r"([(=,+/])(?=.)", r"\1<wbr>", str(escape(text_of))))
