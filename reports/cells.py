"""What a cell of a table shows, and by what it is sorted."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.store.tables import RECOVERED_PSNR
from reports import text
from reports.entries import AttackResult
from reports.statistics import Estimate

#: Where a missing value is sorted: behind all others.
LAST = float("inf")
#: The title of the share of images that are recovered.
RECOVERED = f"PSNR > {RECOVERED_PSNR:g} dB"


@dataclass(frozen=True)
class Value:
    """What a table shows, and the number it is sorted by (None: by the text)."""

    text: str
    order: float | None = None


def number(value: float | None, digits: int) -> Value:
    """One with fixed digits."""
    return Value(text.number(value, digits), LAST if value is None else value)


def estimate(value: Estimate | None, digits: int = 2, signed: bool = False) -> Value:
    """One with its interval."""
    return Value(text.estimate(value, digits, signed), LAST if value is None else value.mean)


def asr(result: AttackResult | None, absent: str) -> Value:
    """The rate of a result, or why there is none."""
    return estimate(result.asr) if result is not None and result.asr is not None else Value(absent, LAST)


def recovered(result: AttackResult | None, absent: str) -> Value:
    """The share of a result that was recovered, or why there is none; a dash where an earlier version did not count it."""
    return Value(absent, LAST) if result is None else estimate(result.recovered)


def at_least(value: float | None) -> Value:
    """A lower limit."""
    return Value(text.ABSENT, LAST) if value is None else Value(f"≥ {text.number(value)}", value)
