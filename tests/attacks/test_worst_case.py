"""The choice among attacks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from attack_cases import observation_of

import attacks
from attacks import Attack, Reconstruction, WorstCase
from attacks.portfolio import BUDGETS, SETTINGS, portfolio


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("attacks.portfolio.BUDGETS", {"standard": (4, 1)})


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_portfolio_holds_every_attack_with_the_budgets_effort(budget):
    members = portfolio(list(attacks.registry), budget)
    assert {member.name for member in members} == set(attacks.registry.names()) - {"worst-case"}
    assert set(SETTINGS) <= set(attacks.registry.names())
    for member in members:
        own = member.parameters()
        assert own.get("iterations", BUDGETS[budget][0]) == BUDGETS[budget][0]
        assert own.get("restarts", BUDGETS[budget][1]) >= BUDGETS[budget][1]
        assert attacks.create(member.label) == member


def test_the_version_of_the_portfolio_is_that_of_its_content():
    """Whoever changes an attack of the portfolio or its settings raises VERSION, and then writes the new hash here."""
    from attacks.portfolio import VERSION
    members = [[member.name, member.parameters()] for budget in BUDGETS for member in portfolio(list(attacks.registry), budget)]
    digest = hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()[:12]
    assert (VERSION, digest) == (1, "e3439d1b68ad")


def test_only_attacks_that_apply_are_run(short):
    names = {defense: {member.name for member in WorstCase().members(observation_of(defense, "mlp")[0])}
             for defense in ("none", "precode", "pruning", "noise")}
    static = {"inverting-gradients", "dlg", "idlg", "see-through-gradients", "analytic"}
    told = static | {"feature-matching"}
    assert names == {"none": told, "precode": static | {"omit-stochastic", "replay-bottleneck"}, "pruning": told | {"mask-aware"},
                     "noise": told | {"noise-aware"}}


def test_of_each_victim_the_lowest_score_is_chosen(short):
    observation, _ = observation_of("precode", "lenet")
    found = WorstCase().reconstruct(observation, seed=0)
    candidates = found.candidates
    chosen = candidates.scores.argmin(0)
    assert torch.equal(found.cost, candidates.scores.min(0).values)
    for victim in range(3):
        assert torch.equal(found.images[victim], candidates.found[chosen[victim]].images[victim])
    alone = candidates.attacks[0].reconstruct(observation, seed=0)
    assert torch.equal(alone.images, candidates.found[0].images)


def test_an_attack_of_the_users_own_takes_part(short, monkeypatch):
    observation, x = observation_of("none", "lenet")

    @dataclass(frozen=True)
    class Perfect(Attack):
        name: ClassVar[str] = "perfect"
        tier: ClassVar[str] = "adaptive"

        def reconstruct(self, observation, *, seed, progress=None):
            return Reconstruction(observation.to_pixels(x), observation.labels, torch.zeros(3))

    monkeypatch.setitem(attacks.registry._classes, "perfect", Perfect)
    found = WorstCase().reconstruct(observation, seed=0)
    winners = [found.candidates.attacks[place].name for place in found.candidates.scores.argmin(0).tolist()]
    assert winners == ["perfect"] * 3
    torch.testing.assert_close(found.images, observation.to_pixels(x))
