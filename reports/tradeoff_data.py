"""What the figure of the trade-off of a board draws: its points, and the same in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports import text
from reports.boards import Board, Family
from reports.entries import Entry
from reports.families import estimated, is_safe
from reports.statistics import Estimate

ASR, TOP1 = "worst-case ASR", "top-1"
#: The columns of the points, see :func:`points`.
COLUMNS = ["measure", "observed", "candidates", "knowledge", "family", "submission", "defense", "strength", "leakage",
           "leakage_low", "leakage_high", "test_accuracy", "test_accuracy_low", "test_accuracy_high", "epsilon", "delta", "safe",
           "safe_up_to", "undefended", "chance_accuracy"]


def points(board: Board) -> pd.DataFrame:
    """A row per defense and measure of leakage: what it leaks in the mode by which is ranked, and its test accuracy, each with its
    95 % interval; families in their order, and in a family strengths in theirs."""
    few = estimated(board, board.ranked_by)
    return pd.DataFrame([row for family in board.families for entry in board.members(family)
                         for row in _rows(board, family, entry, few)], columns=COLUMNS)


def strength(family: Family, entry: Entry) -> str:
    """What tells a member of a family from the others."""
    if family.parameter is None:
        return ""
    written = re.findall(rf"\b{re.escape(family.parameter)}=([^,()]+)", entry.defense)
    values = list(dict.fromkeys(written or _found(entry.parameters, family.parameter)))
    if not values:
        return entry.defense
    return ", ".join(f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in values)


def facts(board: Board) -> str:
    """What the figure shows, in a few sentences."""
    mode, told = board.ranked_by, []
    plain = next((entry for entry in board.entries if entry.defense == board.undefended and entry.accuracy), None)
    if plain is not None and plain.accuracy is not None:
        told.append(f"the undefended model reaches a test accuracy of {text.number(plain.accuracy.mean, 3)} "
                    f"and {_leaks(board, plain)}")
    for family in board.families:
        standing = family.standing(mode)
        if standing.accuracy is not None and standing.safe != board.undefended:
            told.append(f"{family.name} is safe{' by the estimates' if standing.estimated else ''} at "
                        f"{text.number(standing.accuracy.mean, 3)} ({standing.safe})")
    unsafe = [family.name for family in board.families
              if family.standing(mode).accuracy is None and board.undefended not in family.defenses]
    if unsafe:
        told.append(f"no strength is safe of {', '.join(unsafe[:6])}" + (f" and {len(unsafe) - 6} more" if len(unsafe) > 6 else ""))
    return "; ".join(told)


def _leaks(board: Board, entry: Entry) -> str:
    rows = {row["measure"]: row["leakage"] for row in _rows(board, board.family(entry), entry, estimated(board, board.ranked_by))}
    words = {ASR: "leaks {} of its images to reconstruction", TOP1: "{} to identification"}
    return ", ".join(words[measure].format(f"{100 * leakage:.0f} %") for measure, leakage in rows.items()) or "was not attacked"


def _rows(board: Board, family: Family, entry: Entry, few: bool) -> Iterator[dict[str, Any]]:
    """Of a defense, where it has an accuracy; ``few``: the board is :func:`reports.families.estimated`."""
    if entry.accuracy is None:
        return
    seen, thresholds = entry.seen(board.ranked_by), board.protocol.thresholds
    common = {"observed": board.ranked_by, "family": family.name, "submission": entry.submission, "defense": entry.defense,
              "strength": strength(family, entry), **_columns("test_accuracy", entry.accuracy), "epsilon": entry.epsilon,
              "delta": entry.delta, "safe": is_safe(board, entry, board.ranked_by, few),
              "undefended": entry.defense == board.undefended, "chance_accuracy": entry.chance}
    worst = seen.blind if board.only_blind else seen.worst_case
    if worst is not None and worst.asr is not None:
        yield {**common, "measure": ASR, "candidates": None, "knowledge": worst.knowledge, **_columns("leakage", worst.asr),
               "safe_up_to": thresholds.asr}
    identified = board.identification(seen)
    if identified is not None:
        top = identified.compared
        yield {**common, "measure": TOP1, "candidates": top.size, "knowledge": identified.knowledge,
               **_columns("leakage", top.rate), "safe_up_to": thresholds.top1(top.size)}


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    low, high = (estimate.mean if bound is None else bound for bound in (estimate.low, estimate.high))
    return {name: estimate.mean, f"{name}_low": low, f"{name}_high": high}


def _found(parameters: Any, name: str) -> Iterator[Any]:
    """The values of a parameter, also within the parts of a composition."""
    if isinstance(parameters, dict):
        for key, value in parameters.items():
            if key == name:
                yield value
            else:
                yield from _found(value, name)
    elif isinstance(parameters, list):
        for value in parameters:
            yield from _found(value, name)
