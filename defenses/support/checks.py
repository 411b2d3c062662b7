"""Checks of parameters, with one clear line when a value is out of range."""

from __future__ import annotations

import math
from typing import Any


def number(name: str, value: Any, *, at_least: float | None = None, above: float | None = None,
           at_most: float | None = None, below: float | None = None) -> None:
    """Require a finite real number within bounds.

    Raises:
        ValueError: it is not one.
    """
    bounds = [
        (at_least, ">=", lambda v, b: v >= b),
        (above, ">", lambda v, b: v > b),
        (at_most, "<=", lambda v, b: v <= b),
        (below, "<", lambda v, b: v < b),
    ]
    given = [(bound, sign, holds) for bound, sign, holds in bounds if bound is not None]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not all(holds(value, bound) for bound, _, holds in given):
        limits = " and ".join(f"{sign} {bound:g}" for bound, sign, _ in given)
        raise ValueError(f"{name} must be a number {limits}".rstrip() + f", got {value!r}")


def whole(name: str, value: Any, *, at_least: int) -> None:
    """Require an integer that is at least a bound.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} must be a whole number >= {at_least}, got {value!r}")


def choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Require one of a few words.

    Raises:
        ValueError: it is none of them.
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def flag(name: str, value: Any) -> None:
    """Require true or false.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
