"""Candidates whose client is simulated: where nothing is disclosed, or codes cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from identification_cases import case_of
from scipy import stats
from torch import nn

from attacks.identification import Identifier
from attacks.identification.identifier import Method
from attacks.identification.simulation import DRAWS, by_simulation
from defenses import Batch, Defense
from defenses.private import simulated_gradient
from defenses.support.seeds import derive


@pytest.mark.parametrize("model", ["lenet", "batch-norm"])
@pytest.mark.parametrize("defense", [
    "decoy(weight=0.02)", "decoy(weight=0.02)+noise(std=0.0001)", "noise(std=0.0001)+rounded(width=0.0001)+clipping(norm=0.1)",
    "dp-sgd(noise_multiplier=0.0001)+decoy(weight=0.02)", "dp-sgd(noise_multiplier=0.0001)+pruning(p=0.5)+noise(std=0.0001)",
])
def test_little_randomness_hides_no_candidate(defense, model):
    """What is not disclosed at all, alone or with DP-SGD, which computes in training mode only."""
    case = case_of(defense, model)
    assert Identifier().method(case.observation) == Method("simulated", False)
    scores = Identifier().scores(case.observation, case.candidates, seed=0)
    assert not case.ranks(scores).any()
    assert not case.observation.module.training


def test_the_score_by_hand():
    """A Gaussian with the means of a candidate's draws, which have a variance of their own, and a variance for all of a parameter."""
    case = case_of("decoy(weight=0.3)", "mlp", victims=2, size=3, dtype=torch.float64)
    observation, candidates = case.observation, case.candidates
    drawn = [[simulated_gradient(observation.defense, observation.module, image[None], label[None], seed=derive(5, "client", draw))
              for draw in range(DRAWS)] for image, label in zip(candidates.images, candidates.labels, strict=True)]
    expected = torch.zeros(2, len(candidates.images), dtype=torch.float64)
    for name, g in observation.shared.items():
        of_name = torch.stack([torch.stack([draw[name].flatten() for draw in draws]) for draws in drawn])  # [K, draws, n]
        variance = of_name.var(1).mean(1) * (1 + 1 / DRAWS) + 1e-6 * g.flatten(1).square().mean(1, keepdim=True)
        expected -= stats.norm.logpdf(g.flatten(1)[:, None], of_name.mean(1), variance.sqrt()[:, :, None]).sum(2)
    told = []
    found = by_simulation(observation, candidates, 5, lambda done, of: told.append((done, of)))
    expected = expected.gather(1, candidates.pools)
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1])
    assert told[-1][0] == told[-1][1]


def test_the_same_randomness_for_all_candidates_and_that_of_the_seed():
    case = case_of("decoy")
    first, again, other = (Identifier().scores(case.observation, case.candidates, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@dataclass(frozen=True)
class Dropping(Defense):
    """Not a word of what it does, which depends on the round."""

    name: ClassVar[str] = "dropping"

    def transform_batch(self, batch, step):
        assert step.module.training and step.round == 3
        assert not any(layer.training for layer in step.module.modules() if isinstance(layer, nn.BatchNorm2d))
        return Batch(batch.images, batch.targets)


def test_the_client_is_simulated_as_it_computes():
    """In training mode but for batch norm, in the round in which the gradient was observed."""
    case = case_of("none", "batch-norm")
    rounds = (replace(case.observation.rounds[0], number=3),)
    statistics = {name: value.clone() for name, value in case.observation.module.named_buffers()}
    Identifier().scores(replace(case.observation, defense=Dropping(), rounds=rounds), case.candidates, seed=0)
    assert all(torch.equal(value, statistics[name]) for name, value in case.observation.module.named_buffers())
