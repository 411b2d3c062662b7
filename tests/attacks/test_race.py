"""The race of all attacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_cases import observation_of

from attacks import Analytic, InvertingGradients, Race, Recursive, create
from attacks.portfolio import with_effort
from attacks.race import _ahead
from attacks.score import score, score_and_explained

SHORT = Race(iterations=9, heat=3, keep=2)


@pytest.mark.parametrize(("iterations", "heat", "heats"), [
    (1000, 400, [334, 1000]), (3000, 400, [334, 1000, 3000]), (300, 120, [100, 300]), (9, 9, [9]), (1, 1, [1])])
def test_heats(iterations, heat, heats):
    assert Race(iterations=iterations, heat=heat).heats() == heats


@pytest.mark.parametrize("arguments", [{"keep": 0}, {"heat": 0}, {"margin": -1}, {"iterations": 2.5}])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Race(**arguments)


def test_who_goes_on_by_hand():
    a, b, c = (InvertingGradients(total_variation=weight) for weight in (1.0, 2.0, 3.0))
    racing = {a: [0, 1, 2], b: [0, 2], c: [0, 1, 2]}
    scores = {a: torch.tensor([1.0, 5.0, torch.inf]), b: torch.tensor([1.0, torch.inf]), c: torch.tensor([0.5, 2.0, torch.inf])}
    # Of the first victim one tie is for the first; of the second one trails beyond the margin; of the third none is finite.
    assert _ahead(scores, racing, 2, 2.0, 3) == {a: [0], c: [0, 1]}
    assert _ahead(scores, racing, 3, 2.0, 3) == {a: [0], b: [0], c: [0, 1]}
    assert _ahead(scores, racing, 3, 9.0, 3) == {a: [0, 1], b: [0], c: [0, 1]}


@pytest.mark.parametrize("defense", ["noise(std=0.01)", "pruning(p=0.5)", "precode+noise(std=0.001)"])
def test_it_finds_what_a_member_finds_by_itself_and_nothing_likelier_was_seen(defense):
    observation, _ = observation_of(defense, "lenet")
    found = SHORT.reconstruct(observation, seed=0)
    alone = {}
    for member in SHORT.members():
        if member.obstacle(observation) is None:
            for iterations in SHORT.heats():
                rebuilt = with_effort(member, iterations, 1).reconstruct(observation, seed=0)
                alone[member, iterations] = rebuilt, score(observation, (rebuilt.images - 0.5) / 0.25, rebuilt.labels, 0)
    for victim in range(len(observation)):
        differences = [(rebuilt.images[victim] - found.images[victim]).abs().max() for rebuilt, _ in alone.values()]
        assert min(differences) < 1e-4
        # All members run the first heat.
        first = min(scores[victim] for (_, iterations), (_, scores) in alone.items() if iterations == SHORT.heats()[0])
        assert found.cost[victim] <= first + 1e-3


def test_what_was_read_exactly_is_not_raced(monkeypatch):
    observation, x = observation_of("none", "mlp")
    monkeypatch.setattr(InvertingGradients, "reconstruct", lambda *arguments, **others: pytest.fail("raced"))
    found = Race().reconstruct(observation, seed=0)
    torch.testing.assert_close(found.images, x * 0.25 + 0.5, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("defense", "exactly"), [
    ("none", True), ("precode", True), ("pruning(p=0.2)", True), ("noise(std=0.1)", False)])
def test_explained_up_to_rounding(defense, exactly):
    """By the original, and not by an image that is off by a hundredth, nor under known noise."""
    observation, x = observation_of(defense, "mlp")
    assert score_and_explained(observation, x, observation.labels, 0)[1].tolist() == [exactly] * 3
    assert score_and_explained(observation, x + 0.01, observation.labels, 0)[1].tolist() == [False] * 3


def test_what_searches_and_what_it_is_made_of():
    assert InvertingGradients().searches and not Analytic().searches
    assert Recursive().searches and not Recursive(matched=0).searches
    members = Race().members()
    assert not any(isinstance(member, Race) for member in members) and len(set(members)) == len(members)
    assert create(Race(keep=5).label) == replace(Race(), keep=5)


def test_a_diverged_training_ends_the_race_after_the_first_heat():
    observation, _ = observation_of("none", "lenet")
    for gradient in observation.shared.values():
        gradient.fill_(torch.nan)
    calls = []
    found = Race(iterations=9, heat=1).reconstruct(observation, seed=0, progress=lambda done, total: calls.append((done, total)))
    assert len(Race(iterations=9, heat=1).heats()) == 3 and torch.isfinite(found.images).all()
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
