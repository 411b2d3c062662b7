"""What an entry says of what was found."""

from __future__ import annotations

import itertools
import math

import pytest
from board_cases import entry, identified, worst_case

from reports.entries import AttackResult, Obstacle, Trial
from reports.statistics import Estimate


def test_the_rate_counts_before_the_similarity():
    """At one checkpoint half of the images are rebuilt well, at another all of them not quite, and as many with a lower similarity."""
    half, nearly, less = worst_case(64, ssim=0.4, epoch=1), worst_case(0, ssim=0.59, epoch=2), worst_case(64, ssim=0.39, epoch=3)
    for attacks in itertools.permutations([half, nearly, less]):
        assert entry("d", attacks=list(attacks)).worst_case == half


def test_nothing_but_the_informed_worst_case_is_the_worst_case():
    """Neither what looks at the originals, nor a single attack that did better by luck, nor the blind."""
    others = [worst_case(128, knowledge="blind"), worst_case(96, kind="oracle bound", knowledge=""),
              AttackResult("dlg", "attack", "informed", 0, "single", asr=Estimate(0.9, None, None), ssim=Estimate(1.0, None, None))]
    alone, beside = entry("d", attacks=others), entry("d", attacks=[*others, worst_case(64)])
    assert alone.worst_case is None and alone.measured is None
    assert beside.worst_case == beside.worst_case_at(0) == worst_case(64) and beside.worst_case_at(1) is None
    assert beside.blind == others[0] and beside.oracle_bound == beside.oracle_bound_at(0) == others[1]
    assert beside.measured == (0.5, 0.5)


def test_what_is_seen_of_a_mode_is_what_was_found_by_its_gradients():
    single, several = worst_case(10), worst_case(1, observed="as-trained")
    both = entry("d", attacks=[single, several], identifications=[identified(0.5), identified(0.25, observed="as-trained")],
                 unidentified=[Obstacle(0, "8", "blind", "no")])
    assert both.worst_case == single and both.identified.at_all.mean == 0.5
    seen = both.seen("as-trained")
    assert (seen.attacks, seen.worst_case, seen.identified.at_all.mean, seen.unidentified) == ([several], several, 0.25, [])
    assert both.seen("8").attacks == both.seen("8").identifications == [] and both.seen("8").unidentified == both.unidentified
    assert seen.accuracy == both.accuracy and (both.images, both.seen("8").images) == (128, 0)


def test_the_checkpoint_that_tells_most_among_those_compared_counts():
    """Though another tells more among all; of equal ones that with the higher rate among all, then with more bits."""
    first = identified(0.2, compared=0.5, candidates=1000, epoch=1)
    others = [identified(0.4, compared=0.4, candidates=1000, epoch=2), identified(0.1, compared=0.5, candidates=1000, epoch=3)]
    for results in itertools.permutations([first, *others]):
        found = entry("d", identifications=list(results)).identified
        assert found == first and found.compared.rate.mean == 0.5 and found.compared.size == 100
    more = identified(0.2, compared=0.5, candidates=1000, epoch=5, bits=1.0)
    assert entry("d", identifications=[first, more]).identified == entry("d", identifications=[more, first]).identified == more
    assert identified(0.3, candidates=40).compared.size == 40 and identified(0.3, candidates=40).compared.rate.mean == 0.3


def test_without_the_likelihood_a_blind_identification_of_the_same_gradients_counts():
    blind, simulated = identified(0.5, knowledge="blind"), identified(0.25, exact=False)
    assert entry("d", identifications=[blind, simulated]).identified == blind
    assert entry("d", identifications=[blind, identified(0.25)]).identified == identified(0.25)
    elsewhere = identified(0.5, knowledge="blind", observed="as-trained")
    assert entry("d", identifications=[elsewhere, simulated]).identified == simulated


@pytest.mark.parametrize(("right", "above"), [(15, False), (16, True), (40, True), (10, False)])
def test_a_model_is_above_chance_by_its_interval(right, above):
    """Wilson's lower limit is 0.0931 for 15 of 100, and 0.1009 for 16."""
    assert entry("d", right / 100, test_images=100).above_chance is above
    assert not entry("d", right / 100, test_images=100, chance=0.5).above_chance


def test_what_was_not_trained_is_not_above_chance():
    assert not entry("d", None).above_chance and not entry("d", test_images=None).above_chance and not entry("d", chance=None).above_chance


@pytest.mark.parametrize(("loss", "diverged"), [(0.5, False), (None, True), (math.inf, True)])
def test_a_trial_whose_loss_is_no_number_has_diverged(loss, diverged):
    assert Trial("adam", 1e-3, 64, 0.5, loss).diverged is diverged
