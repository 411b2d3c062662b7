"""A stage that says by itself how likely what left it is: one that is Gaussian noise in disguise counts as the noise does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from attack_cases import observation_of
from identification_cases import case_of, gradient_of
from own_likelihood_cases import Gaussian
from stage_cases import CLIPPING, NOISE, PRUNING, SCALING, chain, ids

import defenses
from attacks import Likelihood
from attacks.engine.matcher import GradientMatcher
from attacks.identification import Identifier
from attacks.identification.identifier import Method
from attacks.objective.total_variation import total_variation
from attacks.reading.informed import posterior
from attacks.reading.labels import known_or_inferred_labels
from attacks.reading.releases import told
from attacks.score import score
from defenses import Clipped, Defense, Release, Scaled


@dataclass(frozen=True)
class Disguised(defenses.NoisyGradients):
    """Noise that says so in its own words."""

    name: ClassVar[str] = "disguised"

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release((Gaussian(self.std**2),)))


EACH_CLIPPED = defenses.GradientClipping(0.02, "tensor")
OWN = Disguised(std=NOISE.std)
CHAINS = [(), (PRUNING,), (CLIPPING,), (SCALING,), (SCALING, CLIPPING), (EACH_CLIPPED,)]


@dataclass(frozen=True)
class Scaling(type(SCALING)):
    """Another one, since each defense may be named once."""

    name: ClassVar[str] = "scaling-after"


AFTER = Scaling(3.0)


def both(before, after=()) -> list[Defense]:
    """The chain with the noise as it is, and in disguise."""
    return [chain(*before, noise, *after) for noise in (NOISE, OWN)]


@pytest.mark.parametrize("before", CHAINS, ids=lambda members: ids(members) or "alone")
@pytest.mark.parametrize("after", [(), (AFTER,)], ids=["last", "scaled"])
def test_candidates_are_as_likely(before, after):
    cases = [case_of(defense, victims=2, size=4, dtype=torch.float64) for defense in both(before, after)]
    assert all(Identifier().method(case.observation) == Method("likelihood", True) for case in cases)
    scores = [Identifier().scores(case.observation, case.candidates, seed=0) for case in cases]
    plain, own = (of - of[:, :1] for of in scores)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(own, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("after", [(), (AFTER,)], ids=["last", "scaled"])
@pytest.mark.parametrize("before", [(), (PRUNING,), (EACH_CLIPPED,)], ids=["alone", "pruning", "each"])
def test_images_are_matched_alike(before, after):
    found = []
    for defense in both(before, after):
        observation, x = observation_of(defense, "lenet", dtype=torch.float64)
        labels = known_or_inferred_labels(observation)
        objective = posterior(observation)
        derivative, cost = GradientMatcher(observation, labels, objective, seeds=[0, 1, 2]).step(0.9 * x)
        # The posterior is in units of twice the variance for known noise, and in nats else.
        unit = 2 * told(observation).variances["0.weight"] if objective.judges == {} else 1.0
        found.append((derivative / unit, cost / unit))
        assert Likelihood().obstacle(observation) is None
    for plain, own in zip(*found, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-5)


def test_noise_and_likelihoods_of_their_own_add_up():
    """Of some parameters noise is known, of others the likelihood."""
    observation, x = observation_of(NOISE, "lenet", dtype=torch.float64)
    disguised, _ = observation_of(Mixed(std=NOISE.std), "lenet", dtype=torch.float64)
    labels = known_or_inferred_labels(observation)
    steps = [GradientMatcher(seen, labels, posterior(seen), seeds=[0, 1, 2]).step(0.9 * x) for seen in (observation, disguised)]
    for plain, own in zip(*steps, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("defense", [OWN, "half"], ids=str)
def test_a_score_is_the_logarithm_of_what_the_noise_does_not_explain(defense):
    """Of twice the surprise, n are expected and sqrt(2 n) chance; the images that explain more than that are scored alike."""
    observation, x = observation_of(Mixed(std=0.05) if defense == "half" else OWN, "lenet", dtype=torch.float64)
    images = torch.stack([0.5 * x[0], 0.9 * x[1], x[2]])
    entries = sum(g[0].numel() for g in observation.shared.values())
    for place in range(3):
        own = gradient_of(observation, images[place, 0], observation.labels[place, 0])
        distance = sum((g - observation.shared[name][place]).square().sum() for name, g in own.items()) / 0.05**2
        expected = math.log(max(float(distance) - entries, 0) + math.sqrt(2 * entries))
        expected += 0.5 * math.log(float(total_variation(images)[place]))
        assert float(score(observation, images, observation.labels, 0)[place]) == pytest.approx(expected, abs=0.05 if defense == "half" else 1e-6)


@dataclass(frozen=True)
class Mixed(Disguised):
    name: ClassVar[str] = "half-disguised"

    def release(self, shared, facts):
        plain, own = defenses.NoisyGradients.release(self, shared, facts), super().release(shared, facts)
        return {name: own[name] if name.startswith("0.") else plain[name] for name in shared}


def test_in_batches_it_counts_as_the_noise_that_it_says():
    cases = [case_of(defense, victims=2, size=4, batch_size=3) for defense in both(())]
    plain, own = (Identifier().scores(case.observation, case.candidates, seed=0) for case in cases)
    torch.testing.assert_close(own, plain)


def test_in_batches_it_is_simulated_where_it_says_of_no_noise():
    case = case_of(Silent(std=NOISE.std), victims=2, size=4, batch_size=3)
    assert Identifier().method(case.observation).name == "simulated"
    assert Identifier().scores(case.observation, case.candidates, seed=0).isfinite().all()


@dataclass(frozen=True)
class Silent(Disguised):
    name: ClassVar[str] = "silent"

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release((Plain(self.std**2),)))


@dataclass(frozen=True)
class Plain(Gaussian):
    exact: ClassVar[bool] = False

    def as_noise(self, left):
        return None


def test_whether_it_is_exact_is_told():
    case = case_of(Silent(std=NOISE.std), victims=2, size=4)
    assert Identifier().method(case.observation) == Method("likelihood", False)


@pytest.mark.parametrize(("stages", "closed"), [
    ((Gaussian(1.0), Scaled(2.0)), True), ((Gaussian(1.0), Clipped(1.0, ("a",))), False), ((Gaussian(1.0), Gaussian(1.0)), False),
    ((defenses.Noise(1.0), Gaussian(1.0)), False), ((Gaussian(1.0), defenses.Noise(1.0)), False),
    ((defenses.Intervals(1, 1), Gaussian(1.0)), False), ((Clipped(1.0, ("a", "b")), Gaussian(1.0)), True)])
def test_nothing_but_scaling_may_follow_and_no_noise_precede(stages, closed):
    form = Release(stages).form
    assert (form is not None) == closed
    assert form is None or form.own == Gaussian(1.0)


def test_a_parameter_that_is_clipped_by_itself_is_told_exactly():
    """Without noise: the truth alone explains what was shared, also where the lengths of the parameters' gradients are lost."""
    case = case_of(EACH_CLIPPED, victims=3, size=6, dtype=torch.float64)
    assert Identifier().method(case.observation) == Method("exact", True)
    scores = Identifier().scores(case.observation, case.candidates, seed=0)
    assert case.ranks(scores).tolist() == [0, 0, 0]
    assert scores.gather(1, case.true[:, None]).max() < 1e-6 < math.inf
