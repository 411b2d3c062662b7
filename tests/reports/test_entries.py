"""Rank and Pareto front, against the definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reports.entries import AttackResult, Entry, ranked
from reports.statistics import Estimate


def entry(name, accuracy, asr):
    sure = lambda value: None if value is None else Estimate(value, None, None)  # noqa: E731
    attacks = [] if asr is None else [AttackResult("a", "static", 0, asr=sure(asr), ssim=sure(0.5))]
    return Entry(name, {}, 1, 1, accuracy=sure(accuracy), attacks=attacks)


numbers = st.none() | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(points=st.lists(st.tuples(numbers, numbers), max_size=8))
def test_rank_and_front_by_their_definition(points):
    entries = ranked([entry(str(i), *point) for i, point in enumerate(points)])
    assert sorted(e.defense for e in entries) == sorted(str(i) for i in range(len(points)))
    measured = [e for e in entries if e.strongest is not None]
    assert [e.rank for e in entries] == [*range(1, len(measured) + 1), *[None] * (len(entries) - len(measured))]
    keys = [(e.strongest.asr.mean, -(e.accuracy.mean if e.accuracy else 0)) for e in measured]
    assert keys == sorted(keys)
    both = [e for e in measured if e.accuracy]
    for e in entries:
        better = any(o.accuracy.mean >= e.accuracy.mean and o.strongest.asr.mean <= e.strongest.asr.mean and
                     (o.accuracy.mean > e.accuracy.mean or o.strongest.asr.mean < e.strongest.asr.mean) for o in both) if e in both else None
        assert e.pareto is (better is False)
    assert ranked(entries) == entries


def test_equal_entries_share_the_front():
    assert [e.pareto for e in ranked([entry("a", 0.5, 0.5), entry("b", 0.5, 0.5), entry("c", 0.4, 0.5)])] == [True, True, False]


def test_the_higher_rate_is_stronger_though_its_mean_similarity_is_lower():
    """An attack that rebuilds half of the images well, and one that rebuilds all of them not quite."""
    half, nearly = (AttackResult(name, "static", 0, asr=Estimate(asr, None, None), ssim=Estimate(ssim, None, None))
                    for name, asr, ssim in (("half", 0.5, 0.4), ("nearly", 0.0, 0.59)))
    for attacks in ([half, nearly], [nearly, half]):
        assert Entry("d", {}, 1, 1, attacks=attacks).strongest == half
