"""The table over all boards: a row per defense."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from reports import text
from reports.boards import Board, Family
from reports.cells import LAST, Value


@dataclass(frozen=True)
class Row:
    """A defense, whatever its parameters and whoever entered it: of each board its safe accuracy, or what it leaks. ``family`` is
    the first one that has its name."""

    defense: str
    family: Family
    values: list[Value]


def overview(boards: list[Board]) -> list[Row]:
    """Of each defense on each board the family that ranks best there; best first, by the mean of its ranks over the boards where it
    has one."""
    on_boards = [_by_defense(board) for board in boards]
    rows = []
    for defense in dict.fromkeys(defense for families in on_boards for defense in families):
        found = [families.get(defense) for families in on_boards]
        places = [family.rank for family in found if family is not None and family.rank is not None]
        values = [_point(board, family) for board, family in zip(boards, found, strict=True)]
        first = next(family for family in found if family is not None)
        rows.append((mean(places) if places else LAST, Row(defense, first, values)))
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


def _by_defense(board: Board) -> dict[str, Family]:
    """The first family of each defense; families come best first."""
    found: dict[str, Family] = {}
    for family in board.families:
        found.setdefault(text.without_parameters(family.name), family)
    return found


def _point(board: Board, family: Family | None) -> Value:
    """What counts of a family: its safe accuracy, or what it leaks; sorted by its rank."""
    if family is None:
        return Value("not run", LAST)
    standing = family.standing(board.ranked_by)
    if standing.accuracy is not None:
        told = text.number(standing.accuracy.mean, 3) + (" estimated" if standing.estimated else "")
    elif family.leakage is None:
        told = text.safe(standing, family)
    else:
        told = f"leaks {text.number(family.leakage if family.free is None else family.free.leakage)}"
    return Value(told, LAST if family.rank is None else family.rank)
