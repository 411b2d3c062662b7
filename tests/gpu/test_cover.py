"""Every pair of values comes up that an allowed case has."""

from __future__ import annotations

from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st

from gpu.cover import pairs_of, pairwise, spread

FACTORS = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(lambda sizes: {f"f{i}": list(range(n)) for i, n in enumerate(sizes)})


def all_pairs(factors):
    return {((a, x), (b, y)) for a, b in combinations(factors, 2) for x in factors[a] for y in factors[b]}


@given(FACTORS)
def test_every_pair_is_there(factors):
    cases, impossible = pairwise(factors)
    assert impossible == []
    assert set().union(*map(pairs_of, cases)) == all_pairs(factors)


def test_there_are_few_cases():
    """At least the product of the two largest factors are needed; all would be 1,080."""
    factors = {"a": range(6), "b": range(5), "c": range(4), "d": range(3), "e": range(3)}
    assert 30 <= len(pairwise(factors)[0]) <= 40


@given(FACTORS, st.integers(0, 2**32 - 1))
def test_forbidden_cases_are_not_chosen_and_what_they_alone_have_is_told(factors, seed):
    def allowed(case):
        return hash((seed, *case.values())) % 3 > 0

    cases, impossible = pairwise(factors, allowed)
    assert all(map(allowed, cases))
    possible = set().union(set(), *(pairs_of(case) for values in product(*factors.values())
                                    if allowed(case := dict(zip(factors, values, strict=True)))))
    assert set().union(set(), *map(pairs_of, cases)) == possible
    assert set(impossible) == all_pairs(factors) - possible


def test_one_factor():
    assert pairwise({"a": [1, 2]}, lambda case: case["a"] > 1) == ([{"a": 2}], [])


def test_values_take_turns():
    cases = [{"a": value, "b": number} for number, value in enumerate("xxxyyz")]
    assert [case["b"] for case in spread(cases, "a")] == [0, 3, 5, 1, 4, 2]
