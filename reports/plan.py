"""How a report is laid out, as far as it follows from names alone: what its pages are called, and how defenses are drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reports.boards import Family, Protocol
from reports.drawing import Palette
from reports.titles import titles


@dataclass(frozen=True)
class Outline:
    """What is known of a board before anything is computed."""

    dataset: str
    model: str
    protocol: Protocol
    undefended: str | None
    families: Sequence[Family]


@dataclass(frozen=True)
class Plan:
    """Of each board its title and the name of its page; the names of pages by defense and submission; and how all is drawn."""

    titles: list[str]
    board_pages: list[str]
    defense_pages: dict[tuple[str, str], str]
    palette: Palette


def plan(boards: Sequence[Outline]) -> Plan:
    """Lay out a report."""
    families = [family for board in boards for family in board.families]
    undefended = {board.undefended for board in boards}
    members: dict[str, dict[str, None]] = {}
    for family in families:
        members.setdefault(family.name, {}).update(dict.fromkeys(family.defenses))
    names = _Names()
    board_pages = [names.unique(f"{board.dataset}-{board.model}") for board in boards]
    defenses = dict.fromkeys((defense, family.submission) for family in families for defense in family.defenses)
    return Plan(
        titles([(f"{board.dataset}, {board.model}", board.protocol) for board in boards]), board_pages,
        {key: names.unique("defense-" + "-".join(filter(None, key))) for key in defenses},
        # By name, so that a colour does not depend on who leads.
        Palette(sorted(members.items()), undefended))


class _Names:
    """File names of pages: readable, of bounded length, and each used once, also where letter case does not count."""

    def __init__(self) -> None:
        self._used = {"index", "how-to-read", "claims"}

    def unique(self, text: str) -> str:
        name = re.sub(r"[^a-z0-9.=]+", "-", text.lower()).strip("-.")[:60] or "page"
        candidate, number = name, 1
        while candidate in self._used:
            number += 1
            candidate = f"{name}-{number}"
        self._used.add(candidate)
        return candidate
