"""By what is chosen among reconstructions, and the portfolio whose results are comparable."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from attack_cases import observation_of
from torch.nn import functional as F

import attacks
from attacks.objective.total_variation import total_variation
from attacks.portfolio import BUDGETS, SETTINGS, VERSION, portfolio
from attacks.score import score
from defenses.support.registry import SpecificationError


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_portfolio_holds_every_attack_with_the_budgets_effort(budget):
    members = portfolio(list(attacks.registry), budget)
    assert {member.name for member in members} == {cls.name for cls in attacks.registry if not cls.of_others}
    assert set(SETTINGS) <= set(attacks.registry.names())
    for member in members:
        own = member.parameters()
        assert own.get("iterations", BUDGETS[budget][0]) == BUDGETS[budget][0]
        assert own.get("restarts", BUDGETS[budget][1]) >= BUDGETS[budget][1]
        assert attacks.create(member.label) == member
    assert [member.label for member in attacks.create_all(f"portfolio(budget={budget!r})")] == [member.label for member in members]


@pytest.mark.parametrize(("specification", "message"), [
    ("portfolio(budget='huge')", "budget must be one of fast, standard, thorough, got 'huge'"),
    ("portfolio(iterations=3)", "unknown parameter of attack portfolio 'iterations'"),
    ("portfolio", None),
])
def test_what_a_portfolio_can_be_asked_for(specification, message):
    if message is None:
        assert attacks.create_all(specification) == portfolio(list(attacks.registry), "standard")
        return
    with pytest.raises(SpecificationError) as error:
        attacks.create_all(specification)
    assert message in str(error.value)


@pytest.mark.parametrize(("name", "now"), [
    ("mask-aware", "inverting-gradients"), ("noise-aware(cost='cosine')", "likelihood"), ("replay-bottleneck", "feature-matching"),
    ("worst-case(budget='fast')", "portfolio(budget='standard')")])
def test_attacks_of_earlier_versions_are_told_what_replaces_them(name, now):
    with pytest.raises(SpecificationError) as error:
        attacks.create(name)
    assert "of earlier versions is now" in str(error.value) and now in str(error.value) and "\n" not in str(error.value)


def scores_of_fixed_candidates() -> list[float]:
    observed = [observation_of(defense, "lenet", dtype=torch.float64) for defense in ("none", "noise(std=0.01)", "precode", "ppp")]
    return [value for o, x in observed for known in (o, o.blind()) for value in score(known, 0.9 * x, o.labels, 0).tolist()]


def test_the_version_of_the_portfolio_is_that_of_its_content_and_of_the_score():
    """Whoever changes an attack of the portfolio, its settings or the score raises VERSION, and then writes the new hash here."""
    members = [[member.name, member.parameters()] for budget in BUDGETS for member in portfolio(BUILT_IN, budget)]
    digest = hashlib.sha256(json.dumps([members, [f"{value:.4f}" for value in scores_of_fixed_candidates()]], sort_keys=True).encode()).hexdigest()[:12]
    assert (VERSION, digest) == (5, "0af2058b7bd4")


BUILT_IN = [cls for cls in attacks.registry if cls.__module__.startswith("attacks.")]


def test_of_two_candidates_that_match_alike_the_smoother_one_wins():
    """Of a model whose gradient does not depend on the image."""
    observation, x = observation_of("none", "lenet")
    for layer in (0, 3):
        torch.nn.init.zeros_(observation.module[layer].weight)
    rough, smooth = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)), torch.zeros_like(x) + torch.linspace(-1, 1, 8)
    first, second = (score(observation, images, observation.labels, 0) for images in (rough, smooth))
    variation = [total_variation(images).log() for images in (rough, smooth)]
    torch.testing.assert_close(first - second, variation[0] - variation[1], rtol=1e-4, atol=1e-4)
    assert (second < first).all()


def test_without_noise_it_is_the_mean_log_of_one_minus_the_cosine_of_each_layer():
    observation, x = observation_of("none", "lenet", dtype=torch.float64)
    candidate = x + 0.3
    found = score(observation, candidate, observation.labels, 0)
    for victim in range(3):
        loss = F.cross_entropy(observation.module(candidate[victim]), observation.labels[victim])
        own = dict(zip(observation.shared, torch.autograd.grad(loss, list(observation.module.parameters())), strict=True))
        logs = []
        for layer in ("0", "3"):
            a, b = (torch.cat([g[f"{layer}.{child}"].flatten() for child in ("weight", "bias")]) for g in (
                own, {name: g[victim] for name, g in observation.shared.items()}))
            logs.append(torch.log(1 - torch.dot(a, b) / (a.norm() * b.norm())))
        expected = sum(logs) / 2 + total_variation(candidate)[victim].log()
        torch.testing.assert_close(found[victim], expected, rtol=1e-6, atol=1e-6)


def test_under_known_noise_nothing_is_gained_by_fitting_it():
    """The original has a misfit of about the root of 2 n; by hand of another."""
    observation, x = observation_of("noise(std=0.01)", "mlp", dtype=torch.float64, victims=8)
    count = sum(g[0].numel() for g in observation.shared.values())
    at_original = score(observation, x, observation.labels, 0) - 0.5 * total_variation(x).log()
    assert (at_original.exp() < 6 * (2 * count) ** 0.5).all() and (at_original.exp() >= 0.999 * (2 * count) ** 0.5).all()
    candidate = torch.zeros_like(x)
    found = score(observation, candidate, observation.labels, 0)
    for victim in range(8):
        loss = F.cross_entropy(observation.module(candidate[victim]), observation.labels[victim])
        own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(observation.module.parameters()))])
        theirs = torch.cat([g[victim].flatten() for g in observation.shared.values()])
        distance = theirs.square().sum() - torch.dot(own, theirs).clamp_min(0) ** 2 / own.square().sum()
        misfit = (distance / 0.01**2 - count).clamp_min(0) + (2 * count) ** 0.5
        torch.testing.assert_close(found[victim], misfit.log() + 0.5 * torch.tensor(0.02).log(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("defense", "batch_size"), [("cvb", 1), ("precode", 2), ("dropout", 2)])
def test_what_the_client_sampled_and_no_gradient_tells_is_fitted(defense, batch_size):
    """The originals explain the gradient far better than others that are as smooth, whatever was drawn, and do not by a draw anew."""
    observation, x = observation_of(defense, "lenet", batch_size=batch_size)
    given = [score(observation, images, observation.labels, 0) for images in (x, x.flip(-1), x.roll(1, 0))]
    assert (given[0] < given[1] - 0.5).all() and (given[0] < given[2] - 0.5).all()
    assert torch.equal(score(observation, x, observation.labels, 0), given[0])
