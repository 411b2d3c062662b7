"""What is safe, what is free, and who leads: by hand, and by property."""

from __future__ import annotations

from dataclasses import replace

import pytest
from board_cases import board, entry, identified, sure, worst_case
from hypothesis import given
from hypothesis import strategies as st

from reports.families import estimated, is_safe, leakage, ranked
from reports.ranks import upper_limit

MODES = ("as-trained", "single")


def family_of(*entries, name="f", **more):
    found = ranked(board(*entries, **more))
    return next(family for family in found.families if family.name == name)


def names(found):
    return [(family.rank, family.name) for family in found.families]


def safe(one, **more):
    """Whether it is safe on a board where another has enough victims."""
    return is_safe(board(one, entry("other"), **more), one, "single")


# Safe

@pytest.mark.parametrize(("hits", "images", "expected"), [
    (0, 58, False), (0, 59, True), (0, 128, True), (1, 58, False), (1, 59, False), (1, 128, True), (2, 58, False), (2, 59, False), (2, 128, True),
    (3, 128, False)])
def test_how_many_of_how_many_images_may_be_rebuilt(hits, images, expected):
    """The limit of none of n is 1 - 0.05^(1/n), 0.0503 for 58 and 0.0495 for 59; that of 1 of 128 is 0.0365, of 2 0.0484, of 3 0.0595."""
    assert safe(entry("d", hits=hits, images=images)) is expected


@pytest.mark.parametrize(("hits", "count", "limit"), [(0, 58, 1 - 0.05 ** (1 / 58)), (0, 59, 1 - 0.05 ** (1 / 59)), (1, 128, 0.0365), (2, 128, 0.0484),
                                                      (3, 128, 0.0595), (7, 7, 1.0), (0, 0, 1.0)])
def test_the_upper_limit_of_a_rate(hits, count, limit):
    assert upper_limit(hits, count) == pytest.approx(limit, abs=6e-5)


@pytest.mark.parametrize(("limit", "candidates", "expected"), [(0.06, 100, True), (0.0601, 100, False), (0.06, 1000, True), (0.0601, 1000, False),
                                                               (0.1, 20, True), (0.1001, 20, False), (0.55, 2, True), (0.5501, 2, False)])
def test_how_surely_an_image_may_be_named(limit, candidates, expected):
    """Five points above chance among 100, or all where there are fewer; by the limit, not the estimate."""
    compared = {"compared": 0.01} if candidates > 100 else {}
    assert safe(entry("d", identifications=[identified(0.001, limit, candidates=candidates, **compared)])) is expected


@pytest.mark.parametrize(("victims", "expected"), [(58, False), (59, True)])
def test_too_few_that_were_looked_for_are_not_enough(victims, expected):
    assert safe(entry("d", identifications=[identified(0.0, victims=victims)])) is expected


def test_the_worst_checkpoint_counts():
    assert not safe(entry("d", attacks=[worst_case(0, epoch=0), worst_case(128, epoch=5)]))
    assert not safe(entry("d", identifications=[identified(0.01, epoch=0), identified(0.9, epoch=5)]))


def test_every_limit_counts_and_what_blind_attackers_rebuild():
    """The higher limit of a lower rate, and a blind worst case above that of who knows the defense."""
    assert not safe(entry("d", attacks=[worst_case(0), worst_case(4, knowledge="blind")]))
    assert safe(entry("d", attacks=[worst_case(0), worst_case(2, knowledge="blind"), worst_case(128, knowledge="blind", kind="attack")]))
    assert not safe(entry("d", identifications=[identified(0.03, 0.05, epoch=0), identified(0.02, 0.07, epoch=5)]))
    blind = identified(0.02, 0.07, knowledge="blind")
    assert not safe(entry("d", identifications=[identified(0.01, exact=False), blind]))
    assert safe(entry("d", identifications=[identified(0.01), blind]))  # by the exact likelihood, which a blind one exceeds by chance alone


def test_what_was_not_measured_is_not_safe():
    assert safe(entry("d")) and not safe(entry("d", attacks=[])) and not safe(entry("d", identifications=[]))
    assert not safe(entry("d", attacks=[worst_case(0, knowledge="blind")])) and not safe(entry("d", identifications=[identified(0.0, knowledge="blind")]))
    assert not safe(entry("d"), knowledge=("blind",)) and not safe(entry("d", None))
    assert not is_safe(board(entry("d")), entry("d"), "as-trained")


def test_chance_is_not_safe():
    assert not safe(entry("d", 0.1))


def test_a_mode_is_safe_by_its_own_gradients():
    one = entry("d", attacks=[worst_case(0, observed="as-trained"), worst_case(64)],
                identifications=[identified(0.01, observed="as-trained"), identified(0.01)])
    found = board(one, observed=MODES)
    assert is_safe(found, one, "as-trained") and not is_safe(found, one, "single")
    (family,) = ranked(found).families
    assert [(standing.observed, standing.safe) for standing in family.standings] == [("as-trained", "d"), ("single", None)]
    assert found.ranked_by == board(one, observed=MODES[::-1]).ranked_by == "as-trained" and board(one).ranked_by == "single" and family.standing("8").safe is None


# Too few victims

def few(name, hits, top1=0.01, **more):
    return entry(name, hits=hits, images=58, identifications=[identified(top1, 0.9, victims=58)], **more)


def test_where_no_defense_has_enough_victims_the_estimates_rank_and_say_so():
    found = ranked(board(few("a", 2, 0.06), few("b", 3), few("c", 0, 0.0601), few("d", 2, 0.06, accuracy=0.6)))
    assert estimated(found, "single") and found.too_few_victims
    assert [(family.name, family.standings[0].safe) for family in found.families] == [("d", "d"), ("a", "a"), ("b", None), ("c", None)]
    assert all(family.standings[0].estimated for family in found.families)


def test_where_one_has_enough_the_others_are_judged_by_limits():
    found = ranked(board(few("a", 0), entry("b", 0.3)))
    assert not found.too_few_victims and [(family.name, family.standings[0].safe) for family in found.families] == [("b", "b"), ("a", None)]


def test_too_few_is_said_of_a_mode():
    one = entry("d", attacks=[worst_case(0, observed="as-trained"), worst_case(0, 58)],
                identifications=[identified(0.01, observed="as-trained"), identified(0.01, victims=58)])
    found = ranked(board(one, observed=MODES))
    assert [standing.estimated for standing in found.families[0].standings] == [False, True] and not found.too_few_victims


def test_too_few_is_said_of_what_was_measured():
    assert not ranked(board(entry("d", images=58, identifications=[]), candidates=0)).too_few_victims
    assert ranked(board(entry("d", identifications=[identified(0.0, victims=58)]))).too_few_victims
    assert not ranked(board(entry("d", identifications=[identified(0.0, victims=59)], images=59))).too_few_victims


# Safe accuracy

def test_the_best_validation_accuracy_is_chosen_and_its_test_accuracy_reported():
    strengths = [entry("weak", 0.9, hits=128, validation=0.9, family="f"), entry("a", 0.5, validation=0.6, family="f"), entry("b", 0.6, validation=0.5, family="f")]
    (standing,) = family_of(*strengths, tuned=True).standings
    assert (standing.safe, standing.accuracy, standing.validation, standing.estimated) == ("a", sure(0.5), 0.6, False)
    (untuned,) = family_of(*(replace(strength, validation=None) for strength in strengths)).standings
    assert (untuned.safe, untuned.accuracy, untuned.validation) == ("b", sure(0.6), None)


def test_without_a_safe_strength_there_is_no_safe_accuracy():
    (standing,) = family_of(entry("a", hits=128, family="f"), entry("b", top1=0.5, family="f")).standings
    assert (standing.safe, standing.accuracy, standing.validation) == (None, None, None)


# Free privacy

def test_what_loses_at_most_two_points_is_free_and_the_least_leak_counts():
    strengths = [entry("none", 0.5, 128, 1.0), entry("a", 0.48, 96, 0.5, change=0.48 - 0.5, family="f"), entry("b", 0.49, 90, 0.8, change=-0.01, family="f"),
                 entry("c", 0.4, 0, 0.01, change=-0.0201, family="f")]
    found = family_of(*strengths, undefended="none").free
    assert (found.defense, found.asr.mean, found.top1.mean, found.accuracy.mean, found.leakage) == ("a", 0.75, 0.5, 0.48, 0.75)
    assert family_of(*strengths, undefended="none", name="none").free.leakage == 1.0
    assert family_of(*strengths[:1], strengths[3], undefended="none").free is None


def test_the_higher_of_both_rates_leaks():
    one = entry("d", hits=16, top1=0.75)
    assert leakage(board(one), one).leakage == 0.75 and leakage(board(one), replace(one, identifications=[identified(0.1)])).leakage == 0.125


def test_nothing_leaks_measurably_where_something_is_missing():
    """Of what the protocol asks for; else what there is counts."""
    without = entry("d", hits=16, identifications=[])
    assert leakage(board(without), without) is None
    found = leakage(board(without, candidates=0), without)
    assert (found.asr.mean, found.top1, found.leakage) == (0.125, None, 0.125)
    unattacked = entry("d", attacks=[], top1=0.25)
    assert leakage(board(unattacked), unattacked) is None and leakage(board(unattacked, attacks=()), unattacked).leakage == 0.25
    neither = entry("d", attacks=[], identifications=[])
    assert leakage(board(neither, attacks=(), candidates=0), neither) is None
    assert leakage(board(entry("d", 0.1)), entry("d", 0.1)) is None


def test_it_is_that_of_the_mode_by_which_is_ranked():
    one = entry("d", attacks=[worst_case(32, observed="as-trained"), worst_case(128)],
                identifications=[identified(0.01, observed="as-trained"), identified(1.0)])
    assert leakage(board(one, observed=MODES), one).leakage == 0.25 and leakage(board(one), one).leakage == 1.0


# Ranks

def test_safe_families_lead_by_accuracy_then_free_ones_by_leakage_then_the_others():
    found = ranked(board(
        entry("none", 0.5, 128, 1.0), entry("safe", 0.4), entry("safer", 0.45), entry("free", 0.49, 64, change=-0.01), entry("freer", 0.48, 32, change=-0.02),
        entry("costly", 0.3, 20, change=-0.2), entry("costlier", 0.2, 19, change=-0.3), entry("chance", 0.1), entry("broken", None, attacks=[], identifications=[]),
        undefended="none"))
    assert names(found) == [(1, "safer"), (2, "safe"), (3, "freer"), (4, "free"), (5, "none"), (6, "costlier"), (7, "costly"), (None, "broken"), (None, "chance")]
    assert [family.name for family in found.families if family.at_chance] == ["chance"]
    assert [each.defense for each in found.entries] == [family.name for family in found.families]


def test_the_least_leakage_is_that_of_any_strength_above_chance():
    family = family_of(entry("a", 0.4, 64, family="f", change=-0.1), entry("b", 0.3, 32, family="f", change=-0.2), entry("c", 0.1, 0, family="f"))
    assert (family.free, family.leakage, family.at_chance, family.rank) == (None, 0.25, False, 1)


def test_entries_stand_by_the_rank_of_their_family_and_within_it_as_they_were_given():
    found = ranked(board(entry("x", 0.3, family="slow"), entry("b", 0.5, 128, 1.0, family="f"), entry("a", 0.6, family="f")))
    assert [each.defense for each in found.entries] == ["b", "a", "x"] and found.family(found.entries[0]).rank == 1
    assert [each.defense for each in found.members(found.families[0])] == ["b", "a"]


def test_families_of_submissions_stay_apart():
    entries = [entry("a", 0.3, family="f", submission="Anna"), entry("b", 0.6, family="f", submission="Ben"), entry("a", 0.4, family="f", submission="Ben")]
    found = ranked(board(*entries))
    assert [(family.submission, family.standings[0].safe) for family in found.families] == [("Ben", "b"), ("Anna", "a")]
    assert [(each.submission, each.defense) for each in found.entries] == [("Ben", "b"), ("Ben", "a"), ("Anna", "a")]


# The Pareto front

numbers = st.none() | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(points=st.lists(st.tuples(numbers, numbers), max_size=8))
def test_the_front_by_its_definition(points):
    """Of those above chance."""
    entries = [entry(str(i), accuracy, attacks=[] if asr is None else [worst_case(round(128 * asr))]) for i, (accuracy, asr) in enumerate(points)]
    found = ranked(board(*entries))
    assert sorted(e.defense for e in found.entries) == sorted(e.defense for e in entries)
    both = [e for e in found.entries if e.above_chance and e.worst_case is not None]
    for e in found.entries:
        better = any(o.accuracy.mean >= e.accuracy.mean and o.worst_case.asr.mean <= e.worst_case.asr.mean and
                     (o.accuracy.mean > e.accuracy.mean or o.worst_case.asr.mean < e.worst_case.asr.mean) for o in both) if e in both else None
        assert e.pareto is (better is False)
    assert ranked(found) == found


def test_the_front_is_that_of_the_mode_by_which_is_ranked():
    def of(name, accuracy, trained, single):
        return entry(name, accuracy, attacks=[worst_case(trained, observed="as-trained"), worst_case(single)])
    found = ranked(board(of("a", 0.5, 10, 128), of("b", 0.4, 20, 0), observed=MODES))
    assert {each.defense: each.pareto for each in found.entries} == {"a": True, "b": False}


# Properties

strengths = st.tuples(st.sampled_from([0.1, 0.2, 0.4, 0.5, 0.6]), st.sampled_from([0, 2, 3, 64, 128]), st.sampled_from([0.01, 0.06, 0.07, 0.5]),
                      st.sampled_from([0.3, 0.4, 0.5, 0.6]))


def measured(name, strength, family="f"):
    accuracy, hits, top1, validation = strength
    return entry(name, accuracy, hits, top1, validation=validation, family=family, change=accuracy - 0.5)


@given(of=st.lists(strengths, min_size=1, max_size=5), more=strengths)
def test_another_strength_never_lowers_a_familys_safe_accuracy_unless_it_is_itself_chosen(of, more):
    """Which takes that it is safe and its validation accuracy the best."""
    before = [measured(str(i), strength) for i, strength in enumerate(of)]
    after = [*before, measured("more", more)]
    (old,), (new,) = family_of(*before, tuned=True).standings, family_of(*after, tuned=True).standings
    assert new == old or (new.safe == "more" and all(new.validation > each.validation or not is_safe(board(*after), each, "single") for each in before))


@given(of=st.lists(st.tuples(strengths, st.sampled_from("fgh")), min_size=1, max_size=6), data=st.data())
def test_the_order_of_entries_and_families_does_not_matter(of, data):
    found = board(*(measured(str(i), strength, family) for i, (strength, family) in enumerate(of)), tuned=True)
    shuffled = replace(found, entries=data.draw(st.permutations(found.entries)), families=data.draw(st.permutations(found.families)))
    assert ranked(shuffled) == ranked(found)


@given(of=st.lists(st.tuples(strengths, st.sampled_from("fgh")), min_size=1, max_size=6))
def test_ranks_count_up_and_go_by_what_was_said(of):
    found = ranked(board(*(measured(str(i), strength, family) for i, (strength, family) in enumerate(of)), tuned=True))
    with_rank = [family for family in found.families if family.rank is not None]
    assert [family.rank for family in found.families] == [*range(1, len(with_rank) + 1), *[None] * (len(found.families) - len(with_rank))]
    safe = [family.standings[0].accuracy.mean for family in with_rank if family.standings[0].accuracy]
    assert safe == sorted(safe, reverse=True) and all(family.standings[0].accuracy for family in with_rank[:len(safe)])
    assert all(family.at_chance for family in found.families if family.rank is None)
