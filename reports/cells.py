"""What a cell of a table shows, and by what it is sorted."""

from __future__ import annotations

from dataclasses import dataclass

from reports import text
from reports.entries import AttackResult
from reports.statistics import Estimate

#: Where a missing value is sorted: behind all others.
LAST = float("inf")


@dataclass(frozen=True)
class Value:
    """What a table shows, and the number it is sorted by (None: by the text)."""

    text: str
    order: float | None = None


def number(value: float | None, digits: int) -> Value:
    return Value(text.number(value, digits), LAST if value is None else value)


def estimate(value: Estimate | None, digits: int = 2, signed: bool = False) -> Value:
    return Value(text.estimate(value, digits, signed), LAST if value is None else value.mean)


def asr(result: AttackResult | None, absent: str) -> Value:
    return estimate(result.asr) if result is not None and result.asr is not None else Value(absent, LAST)


def at_least(value: float | None) -> Value:
    return Value(text.ABSENT, LAST) if value is None else Value(f"≥ {text.number(value)}", value)
