"""What attackers read where a release says of some entries only that they are told: columns, entries kept, slices without noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from attack_cases import observation_of
from identification_cases import case_of
from own_likelihood_cases import Gaussian

import attacks
import defenses
from attacks.engine.matcher import GradientMatcher
from attacks.identification import Identifier
from attacks.objective.costs import Cosine
from attacks.objective.features import Features
from attacks.reading.layers import entered, last_features, layer_input, told_inputs
from attacks.reading.releases import told
from attacks.score import score
from defenses import Release


@dataclass(frozen=True)
class Half(Gaussian):
    """Sees the entries above zero."""

    def seen(self, left):
        return left > 0


@dataclass(frozen=True)
class Seen(defenses.NoisyGradients):
    name: ClassVar[str] = "seen-above-zero"

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release((Half(self.std**2),)))


def test_features_of_zeroed_columns_are_not_taken_for_zero():
    observation, x = observation_of("soteria(percentile=50)", "lenet", dtype=torch.float64)
    given = entered(observation, {"3": observation.module[3]}, x.flatten(0, 1))["3"][:, None]
    kept = told_inputs(observation, "3")
    assert kept.shape == given.shape and (kept.sum(2) == 24).all()
    torch.testing.assert_close(last_features(observation)["3"], torch.where(kept, given, 0.0))
    objective = attacks.FeatureMatching(total_variation=0).objective(observation)
    assert GradientMatcher(observation, observation.labels, objective, seeds=range(3)).step(x)[1].abs().max() < 1e-9
    assert told_inputs(observation_of("pruning(p=0.5)", "lenet")[0], "3") is None


def test_the_distance_over_features_that_are_told_is_that_of_these_alone():
    known, found = torch.randn(2, 1, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    kept = torch.tensor([[[True, True, True, False, True, False]], [[False] * 6]])
    some = Features(1.0, "", known, kept).distance(torch.nn.Identity(), {"": found}, 2)
    own, target = found[0, kept[0, 0]], known[0, 0, kept[0, 0]]
    assert some[0].item() == pytest.approx(((own - target).square().mean() / target.var(unbiased=False)).item()) and some[1] == 0


def test_gradients_are_compared_and_inputs_read_where_a_stage_sees_them():
    observation, _ = observation_of(Seen(std=1e-6), "lenet", dtype=torch.float64)
    known = told(observation)
    assert all(torch.equal(known.masks[name], g > 0) for name, g in observation.shared.items())
    objective = attacks.InvertingGradients().objective(observation)
    assert objective.masks.keys() == known.masks.keys() and not objective.judges and isinstance(objective.cost, Cosine)
    disturbed = {name: torch.where(g > 0, g, g - 1) for name, g in observation.shared.items()}
    found, other = (layer_input(seen, "3") for seen in (observation, replace(observation, shared=disturbed, rounds=(), kept={})))
    assert torch.equal(found, other)


def test_candidates_of_a_batch_are_compared_where_a_stage_sees_them():
    case = case_of(Seen(std=1e-4), victims=4, size=4, batch_size=2)
    disturbed = {name: torch.where(g > 0, g, g - 1) for name, g in case.observation.shared.items()}
    scores = [Identifier().scores(seen, case.candidates, seed=0)
              for seen in (case.observation, replace(case.observation, shared=disturbed, rounds=(), kept={}))]
    torch.testing.assert_close(*scores)


def later(defense: str, model: str = "lenet", **options):
    """The observation of a client that has trained for some steps."""
    observation, x = observation_of(defense, model, **options)
    return replace(observation, rounds=(replace(observation.rounds[0], number=5),)), x


@pytest.mark.parametrize("model", ["lenet", "mlp", "batch-norm"])
def test_what_is_remembered_can_be_matched_and_scored(model):
    observation, x = later("top-k(share=0.3)", model)
    assert all(isinstance(release.stages[0], defenses.OwnLikelihood) for release in observation.releases().values())
    for attack in (attacks.InvertingGradients(), attacks.FeatureMatching(), attacks.Likelihood(), attacks.DLG()):
        if attack.obstacle(observation) is None:
            assert attack.__class__(iterations=3).reconstruct(observation, seed=0).images.isfinite().all()
    assert torch.isfinite(score(observation, 0.9 * x, observation.labels, 0)).all()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_small_memory_hides_no_candidate(batch_size):
    case = case_of("top-k(share=0.3)", "mlp", victims=6, batch_size=batch_size, public=80)
    observation = replace(case.observation, rounds=(replace(case.observation.rounds[0], number=5),), kept={})
    scores = Identifier().scores(observation, case.candidates, seed=0)
    assert (case.ranks(scores) == 0).sum() >= (6 if batch_size == 1 else 4)
