"""What an attacker cannot exceed, and that the likelihood comes as near as it must."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from attack_cases import observation_of
from identification_cases import Case
from model_cases import loader
from scipy import integrate, stats
from stage_cases import Scaling
from torch import nn

import defenses
from attacks import Observation
from attacks.identification import Candidates, Identifier, presence_mu
from defenses import Clipped, Composition, Defense, Noise, Release

VICTIMS = 6000


def observed(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, std: float, defense: Defense, clip: float = math.inf) -> Case:
    """Many victims, each with one of M images in turn, whose gradients are the same candidates for all; noise is drawn at once."""
    module.eval()
    gradients = []
    for image, label in zip(images, labels, strict=True):
        loss = nn.functional.cross_entropy(module(image[None]), label[None])
        own = torch.autograd.grad(loss, list(module.parameters()))
        norm = torch.cat([g.flatten() for g in own]).norm()
        gradients.append([g * min(1, clip / norm) for g in own])
    true = torch.arange(VICTIMS) % len(images)
    generator = torch.Generator().manual_seed(0)
    shared = {name: torch.stack([own[place] for own in gradients])[true] + std * torch.randn(VICTIMS, *p.shape, generator=generator, dtype=p.dtype)
              for place, (name, p) in enumerate(module.named_parameters())}
    observation = Observation(
        module=module, shared=shared, batch_size=1, image_shape=tuple(images.shape[1:]), mean=torch.zeros(1, dtype=images.dtype),
        std=torch.ones(1, dtype=images.dtype), labels=labels[true][:, None], defense=defense)
    return Case(observation, Candidates(images, labels, torch.arange(len(images)).expand(VICTIMS, -1)), true)


def first(case: Case) -> int:
    return int((case.ranks(Identifier().scores(case.observation, case.candidates, seed=0)) == 0).sum())


def interval(successes: int) -> tuple[float, float]:
    found = stats.binomtest(successes, VICTIMS).proportion_ci(0.999)
    return found.low, found.high


@pytest.mark.parametrize("std", [1.0, 2.0, 5.0])
def test_of_two_candidates_the_right_one_is_first_as_often_as_their_distance_says(std):
    """A linear model under Gaussian noise: top-1 is Phi(|G1 - G2| / (2 sigma)), and nobody's can be better."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    images = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    case = observed(module, images, torch.tensor([0, 2]), std, defenses.NoisyGradients(std=std))
    gradients = [torch.cat([g.flatten() for g in torch.autograd.grad(nn.functional.cross_entropy(module(x[None]), y[None]), list(module.parameters()))])
                 for x, y in zip(images, (torch.tensor(0), torch.tensor(2)), strict=True)]
    expected = stats.norm.cdf((gradients[0] - gradients[1]).norm().item() / (2 * std))
    low, high = interval(first(case))
    assert low < expected < high and 0.55 < expected < 0.999


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 2.0, 4.0])
def test_clipped_gradients_in_orthogonal_directions(multiplier):
    """Images of one bright pixel each, whose gradients are longer than the clipping norm and have no entry in common: among M
    independent normal scores that of the truth has the mean mu = 1 / multiplier, and its share of first places is below the bound."""
    pool, norm = 10, 0.7
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).double()
    nn.init.zeros_(module[1].weight)
    images = 1e3 * torch.eye(16, dtype=torch.float64)[:pool].view(pool, 1, 4, 4)
    defense = defenses.DPSGD(noise_multiplier=multiplier, max_grad_norm=norm)
    case = observed(module, images, torch.ones(pool, dtype=torch.long), multiplier * norm, defense, clip=norm)
    mu = presence_mu(case.observation)
    assert mu == pytest.approx(1 / multiplier)
    expected = integrate.quad(lambda t: stats.norm.pdf(t - mu) * stats.norm.cdf(t) ** (pool - 1), -10, 15)[0]
    low, high = interval(first(case))
    assert low < expected < high
    assert expected < stats.norm.cdf(stats.norm.ppf(1 / pool) + mu)


def test_the_client_itself_is_that_of_the_law():
    """The gradients that DP-SGD shares of such an image have the norm, and the noise, that the law above takes for granted."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    nn.init.zeros_(module[1].weight)
    private = defenses.DPSGD(noise_multiplier=2.0, max_grad_norm=0.7).make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader())
    image = 1e3 * torch.eye(16)[:1].view(1, 1, 4, 4)
    drawn = torch.stack([private.shared_gradient(image, torch.tensor([1]), seed=seed)["1.weight"] for seed in range(200)])
    assert drawn.std(0).mean().item() == pytest.approx(1.4, rel=0.03)
    assert (drawn.mean(0)[:, 0]).norm().item() == pytest.approx(0.7, abs=0.35)


@pytest.mark.parametrize(("specification", "batch_size", "rounds", "mu"), [
    ("dp-sgd(noise_multiplier=0.5)", 1, 1, 2.0), ("dp-sgd(noise_multiplier=2.0, max_grad_norm=3.0)", 1, 1, 0.5),
    ("dp-sgd(noise_multiplier=0.5)", 3, 1, 2.0), ("dp-sgd(noise_multiplier=0.5)", 1, 3, 2 * math.sqrt(3)),
    ("dp-sgd(noise_multiplier=0.5)", 3, 3, 2 * math.sqrt(3)), ("dp-sgd(noise_multiplier=0.5)+pruning", 1, 1, 2.0),
    ("dp-sgd(noise_multiplier=0.5)+pruning", 3, 2, 2 * math.sqrt(2)), ("precode+dp-sgd(noise_multiplier=0.5)", 1, 1, 2.0),
    ("dp-sgd(noise_multiplier=0.5)+rounded", 1, 1, 2.0), ("dp-sgd(noise_multiplier=0.5)+clipping(norm=0.1)", 1, 1, 2.0),
    # Of further noise of variance v, mu^-2 = multiplier^2 + B^2 v.
    ("dp-sgd(noise_multiplier=0.5)+noise(std=1.2)", 1, 1, 1 / 1.3), ("dp-sgd(noise_multiplier=0.5)+noise(std=0.4)", 3, 1, 1 / 1.3),
    # A sum with other noise is taken for Gaussian in likelihoods, but is not; what is certain is the guarantee before it.
    ("dp-sgd(noise_multiplier=0.5)+noise(std=1.2, distribution='laplacian')", 1, 1, 2.0),
    ("dp-sgd(noise_multiplier=0.5)+pruning+noise(std=1.2)", 1, 1, 2.0),
    ("dp-sgd(noise_multiplier=0.0)", 1, 1, None), ("dp-sgd(noise_multiplier=0.0)+pruning", 1, 1, None),
    ("dp-sgd(noise_multiplier=0.0)+noise(std=0.5)", 1, 1, 2.0), ("dp-sgd(noise_multiplier=0.0)+pruning+noise(std=0.5)", 1, 1, None),
    ("dp-sgd(noise_multiplier=0.0)+noise(std=0.5, distribution='laplacian')", 1, 1, None),
    ("clipping(norm=0.5)+noise(std=0.25)", 1, 1, 2.0), ("clipping(norm=0.5)+noise(std=0.25)", 3, 1, 2.0),
    ("dp-fedavg(noise_multiplier=0.5)", 3, 1, 2.0), ("dp-fedavg(noise_multiplier=0.5)+secure-sum(clients=2)", 3, 1, 2.0),
    ("dp-sgd(noise_multiplier=0.5)+secure-sum(clients=2)", 3, 1, 2.0), ("noise+secure-sum(clients=2)", 1, 1, None),
    ("dp-sgd(noise_multiplier=0.5)+decoy", 1, 1, None), ("dp-sgd(noise_multiplier=0.5)+top-k(share=0.5)", 1, 1, 2.0),
    ("dp-sgd(noise_multiplier=0.5)+mixed-labels", 3, 1, None),
    ("none", 1, 1, None), ("noise", 1, 1, None), ("noise", 1, 3, None), ("pruning", 1, 1, None), ("precode", 1, 1, None), ("ppp", 1, 1, None),
])
def test_the_guarantee_for_the_presence_of_one_image(specification, batch_size, rounds, mu):
    observation, _ = observation_of(specification, "lenet", batch_size=batch_size, rounds=rounds)
    assert presence_mu(observation) == (None if mu is None else pytest.approx(mu))
    assert presence_mu(observation.blind()) is None


def test_scaling_on_either_side_of_the_noise():
    for members, mu in (((defenses.DPSGD(noise_multiplier=0.5), Scaling(-3.0)), 2.0),
                        ((defenses.GradientClipping(0.5), Scaling(-3.0), defenses.NoisyGradients(std=0.25)), 6.0),
                        ((Scaling(-3.0), defenses.GradientClipping(0.5), defenses.NoisyGradients(std=0.25)), None)):
        found = presence_mu(observation_of(Composition(members), "lenet")[0])
        assert found == (None if mu is None else pytest.approx(mu))


@dataclass(frozen=True)
class Told(Defense):
    """Says of the first parameter what it is told to, and of the others that they were clipped to 0.5 together, under noise of 0.25."""

    name: ClassVar[str] = "told"
    first: Callable[[tuple[str, ...]], Release] = lambda names: Release()

    def release(self, shared, facts):
        names = tuple(shared)
        return {**dict.fromkeys(names, Release((Clipped(0.5, names), Noise(0.0625)))), names[0]: self.first(names)}


@pytest.mark.parametrize(("first", "mu"), [
    (lambda names: Release((Clipped(0.5, names), Noise(0.01))), 5.0), (lambda names: Release((Clipped(0.5, names), Noise(0.25))), 2.0),
    (lambda names: Release((Clipped(0.5, names[:1]), Noise(0.01))), None), (lambda names: Release((Clipped(0.4, names), Noise(0.01))), None),
    (lambda names: Release((Noise(0.01),)), None), (lambda names: Release((Clipped(0.5, names),)), None), (lambda names: Release(), None),
])
def test_the_least_noisy_parameter_counts_and_the_norm_must_be_over_all(first, mu):
    observation = replace(observation_of("none", "lenet")[0], defense=Told(first))
    assert presence_mu(observation) == (None if mu is None else pytest.approx(mu))


def test_nothing_is_guaranteed_where_a_later_round_has_no_guarantee():
    observation = replace(observation_of("none", "lenet", rounds=2)[0], defense=InOneRound())
    assert presence_mu(replace(observation, rounds=observation.rounds[:1])) == pytest.approx(2)
    later = replace(observation.rounds[1], number=7)
    assert presence_mu(replace(observation, rounds=(observation.rounds[0], later))) is None


@dataclass(frozen=True)
class InOneRound(Defense):
    """Guarantees something of the gradient before any training only."""

    name: ClassVar[str] = "in-one-round"

    def release(self, shared, facts):
        names = tuple(shared)
        return dict.fromkeys(names, Release((Clipped(0.5, names), *([Noise(0.0625)] if facts.round == 0 else []))))
