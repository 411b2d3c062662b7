"""Few cases in which all pairs of values come up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Case = dict[str, Any]
#: Two factors, each with a value.
Pair = tuple[tuple[str, Any], tuple[str, Any]]


def pairs_of(case: Mapping[str, Any]) -> set[Pair]:
    """All pairs that come up in a case."""
    return set(combinations(case.items(), 2))  # type: ignore[arg-type]


def pairwise(factors: Mapping[str, Sequence[Any]], allowed: Callable[[Case], bool] = lambda case: True) -> tuple[list[Case], list[Pair]]:
    """Cases of one value of each factor in which every pair of values comes up that an allowed case has.

    Greedy, as AETG (Cohen et al., 1997): a case is begun with a pair that is still missing, and gets of each other factor the value
    that brings most missing pairs. Those that bring most come first.

    Args:
        factors: the values of each factor, by its name; values are hashable.
        allowed: whether a case can be; asked once of each.

    Returns:
        The cases, and the pairs that no allowed case has.
    """
    if len(factors) < 2:
        return [case for value in product(*factors.values()) if allowed(case := dict(zip(factors, value, strict=True)))], []
    known: dict[tuple[Any, ...], bool] = {}

    def may(case: Case) -> bool:
        key = tuple(case[name] for name in factors)
        if key not in known:
            known[key] = allowed(dict(zip(factors, key, strict=True)))
        return known[key]

    left = {((a, x), (b, y)): None for a, b in combinations(factors, 2) for x in factors[a] for y in factors[b]}
    cases: list[Case] = []
    impossible: list[Pair] = []
    while left:
        pair = next(iter(left))
        case = _greedy(factors, pair, left)
        if not may(case):
            case = next((other for other in _others(factors, pair, left) if may(other)), {})
        if not case:
            impossible.append(pair)
            del left[pair]
            continue
        cases.append(case)
        for found in pairs_of(case):
            left.pop(found, None)
    return cases, impossible


def spread(cases: Sequence[Case], factor: str) -> list[Case]:
    """The cases in an order in which the values of a factor take turns."""
    seen: Counter[Any] = Counter()
    turns = []
    for case in cases:
        turns.append((seen[case[factor]], len(turns)))
        seen[case[factor]] += 1
    return [cases[place] for _, place in sorted(turns)]


def _ordered(factors: Mapping[str, Sequence[Any]], case: Case) -> Case:
    return {name: case[name] for name in factors}


def _gain(factors: Mapping[str, Sequence[Any]], case: Case, left: Mapping[Pair, None]) -> int:
    return sum(pair in left for pair in pairs_of({name: case[name] for name in factors if name in case}))


def _greedy(factors: Mapping[str, Sequence[Any]], pair: Pair, left: Mapping[Pair, None]) -> Case:
    case: Case = dict(pair)
    for name, values in factors.items():
        if name not in case:
            case[name] = max(values, key=lambda value, name=name, case=case: _gain(factors, {**case, name: value}, left))
    return _ordered(factors, case)


def _others(factors: Mapping[str, Sequence[Any]], pair: Pair, left: Mapping[Pair, None]) -> list[Case]:
    """All cases with a pair, those that bring most first."""
    fixed = dict(pair)
    cases = [dict(zip(factors, values, strict=True)) for values in product(
        *([fixed[name]] if name in fixed else values for name, values in factors.items()))]
    return sorted(cases, key=lambda case: -_gain(factors, case, left))
