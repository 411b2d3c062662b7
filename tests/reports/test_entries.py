"""Rank and Pareto front, against the definition."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from reports.entries import AttackResult, Entry, ranked
from reports.statistics import Estimate


def worst_case(asr, ssim, epoch=0, knowledge="informed", kind="worst case"):
    return AttackResult(kind, kind, knowledge, epoch, asr=Estimate(asr, None, None), ssim=Estimate(ssim, None, None))


def entry(name, accuracy, asr):
    sure = lambda value: None if value is None else Estimate(value, None, None)  # noqa: E731
    attacks = [] if asr is None else [worst_case(asr, 0.5)]
    return Entry(name, {}, 1, 1, accuracy=sure(accuracy), attacks=attacks)


numbers = st.none() | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(points=st.lists(st.tuples(numbers, numbers), max_size=8))
def test_rank_and_front_by_their_definition(points):
    entries = ranked([entry(str(i), *point) for i, point in enumerate(points)])
    assert sorted(e.defense for e in entries) == sorted(str(i) for i in range(len(points)))
    measured = [e for e in entries if e.worst_case is not None]
    assert [e.rank for e in entries] == [*range(1, len(measured) + 1), *[None] * (len(entries) - len(measured))]
    keys = [(e.worst_case.asr.mean, -(e.accuracy.mean if e.accuracy else 0)) for e in measured]
    assert keys == sorted(keys)
    both = [e for e in measured if e.accuracy]
    for e in entries:
        better = any(o.accuracy.mean >= e.accuracy.mean and o.worst_case.asr.mean <= e.worst_case.asr.mean and
                     (o.accuracy.mean > e.accuracy.mean or o.worst_case.asr.mean < e.worst_case.asr.mean) for o in both) if e in both else None
        assert e.pareto is (better is False)
    assert ranked(entries) == entries


def test_equal_entries_share_the_front():
    assert [e.pareto for e in ranked([entry("a", 0.5, 0.5), entry("b", 0.5, 0.5), entry("c", 0.4, 0.5)])] == [True, True, False]


def test_the_rate_counts_before_the_similarity():
    """At one checkpoint half of the images are rebuilt well, at another all of them not quite, and as many with a lower similarity."""
    half, nearly, less = worst_case(0.5, 0.4, 1), worst_case(0.0, 0.59, 2), worst_case(0.5, 0.39, 3)
    for attacks in itertools.permutations([half, nearly, less]):
        assert Entry("d", {}, 1, 1, attacks=list(attacks)).worst_case == half


def test_nothing_but_the_informed_worst_case_ranks():
    """Neither what looks at the originals, nor a single attack that did better by luck, nor the blind."""
    others = [worst_case(1.0, 1.0, knowledge="blind"), worst_case(0.75, 1.0, kind="oracle bound", knowledge=""),
              AttackResult("dlg", "attack", "informed", 0, asr=Estimate(0.9, None, None), ssim=Estimate(1.0, None, None))]
    alone, beside = Entry("d", {}, 1, 1, attacks=others), Entry("d", {}, 1, 1, attacks=[*others, worst_case(0.5, 0.5)])
    assert alone.worst_case is None and ranked([alone])[0].rank is None
    assert beside.worst_case == beside.worst_case_at(0) == worst_case(0.5, 0.5) and beside.worst_case_at(1) is None
    assert beside.blind == others[0] and beside.oracle_bound == beside.oracle_bound_at(0) == others[1]
