"""Scores of one image against likelihoods from scipy's distributions, where a candidate passes through the client's own code."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import scipy.stats
import torch
from identification_cases import Case, case_of, gradient_of
from stage_cases import (
    CLIPPING,
    LAPLACIAN,
    NOISE,
    PRUNING,
    ROUNDING,
    SCALING,
    SIGNS,
    Rounding,
    Scaling,
    Stochastic,
    chain,
    ids,
)

import defenses
from attacks.engine.rows import FormedRows
from attacks.identification import Identifier
from attacks.identification.identifier import Method
from attacks.identification.likelihood import ImageLikelihood
from defenses import Batch, Composition, Defense, Release, Step, Unknown

DP_SGD = defenses.DPSGD(noise_multiplier=0.2, max_grad_norm=0.3)


def through(members, gradient: dict[str, torch.Tensor], module) -> dict[str, torch.Tensor]:
    """What a gradient becomes by the hooks of deterministic defenses."""
    step = Step(module, Batch(torch.empty(1), torch.empty(1)), 1, torch.Generator(), {}, 0, lambda batch: batch.images)
    for member in members:
        gradient = member.transform_gradients(gradient, step)
    return gradient


def expected_under_noise(case: Case, members) -> torch.Tensor:
    """Minus the logarithms of the likelihoods, [N, M]; DP-SGD of one image is clipping and noise."""
    observation, candidates = case.observation, case.candidates
    members = [part for member in members for part in (
        (defenses.GradientClipping(member.max_grad_norm), defenses.NoisyGradients(member.noise_multiplier * member.max_grad_norm))
        if isinstance(member, defenses.DPSGD) else (member,))]
    place = next(i for i, member in enumerate(members) if isinstance(member, defenses.NoisyGradients))
    noise, last = members[place], members[place + 1 :]
    law = scipy.stats.norm(scale=noise.std) if noise.distribution == "gaussian" else scipy.stats.laplace(scale=noise.std / math.sqrt(2))
    found = torch.zeros(candidates.pools.shape, dtype=torch.float64)
    for victim, pool in enumerate(candidates.pools):
        for column, candidate in enumerate(pool):
            own = through(members[:place], gradient_of(observation, candidates.images[candidate], candidates.labels[candidate]),
                          observation.module)
            for name, g in own.items():
                found[victim, column] -= sum(_log_likelihood(law, last, observation.shared[name][victim], g))
    return found


def _log_likelihood(law, last, shared: torch.Tensor, own: torch.Tensor) -> np.ndarray:
    shared, own = shared.flatten().double().numpy(), own.flatten().numpy()
    low, high = shared.copy(), shared.copy()
    for member in reversed(last):
        if isinstance(member, Scaling):
            low, high = sorted((low / member.factor, high / member.factor), key=lambda end: end.sum())
        elif isinstance(member, Rounding):
            low, high = low - member.width / 2, high + member.width / 2
        elif isinstance(member, defenses.GradientSigns):
            low, high = np.where(low > 0, 0, -np.inf), np.where(high < 0, 0, np.inf)
        else:
            assert isinstance(member, defenses.GradientPruning)
            least = np.abs(shared[shared != 0]).min() / (2 if any(isinstance(m, Scaling) for m in last) and last[-1] is not member else 1)
            low, high = np.where(shared == 0, -least, low), np.where(shared == 0, least, high)
    low, high = low - own, high - own
    mirrored = np.where(low > 0, -high, low), np.where(low > 0, -low, high)  # where the distribution function keeps its digits
    with np.errstate(divide="ignore"):
        return np.where(low == high, law.logpdf(low), np.log(law.cdf(mirrored[1]) - law.cdf(mirrored[0])))


UNDER_NOISE = [
    *((noise,) for noise in (NOISE, LAPLACIAN)), (DP_SGD,), (DP_SGD, PRUNING), (DP_SGD, SCALING),
    *((first, noise) for first in (PRUNING, CLIPPING, ROUNDING, SIGNS, SCALING) for noise in (NOISE, LAPLACIAN)),
    *((noise, last) for last in (PRUNING, ROUNDING, SIGNS, SCALING) for noise in (NOISE, LAPLACIAN)),
    (SCALING, CLIPPING, NOISE), (CLIPPING, SCALING, NOISE), (CLIPPING, PRUNING, NOISE), (CLIPPING, NOISE, PRUNING),
    (NOISE, SCALING, PRUNING), (PRUNING, NOISE, SIGNS), (NOISE, SCALING, ROUNDING),
]


@pytest.mark.parametrize("members", UNDER_NOISE, ids=ids)
def test_under_noise_scores_are_log_likelihoods(members):
    """Up to a constant of each victim, and so their order is that of the likelihoods."""
    case = case_of(chain(*members), victims=2, size=4, dtype=torch.float64)
    assert Identifier().method(case.observation) == Method("likelihood", True)
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    expected = expected_under_noise(case, members)
    assert expected.isfinite().all() and expected.std(1).min() > 0.01
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


def test_of_two_noises_the_sum_counts():
    """Which is exact where both are Gaussian."""
    for second in (NOISE, LAPLACIAN):
        case = case_of(Composition((DP_SGD, second)))
        assert Identifier().method(case.observation) == Method("likelihood", second is NOISE)
    case = case_of(Composition((DP_SGD, NOISE)), victims=2, size=4, dtype=torch.float64)
    summed = defenses.NoisyGradients(std=math.hypot(0.06, 0.05))
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    expected = expected_under_noise(case, (defenses.GradientClipping(0.3), summed))
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("defense", ["noise(std=0.01)", "dp-sgd(noise_multiplier=0.1)"])
@pytest.mark.parametrize("model", ["lenet", "mlp", "batch-norm"])
def test_float32_changes_no_likelihood_by_more_than_a_hundredth(model, defense):
    case = case_of(defense, model)
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    candidates = replace(case.candidates, images=case.candidates.images.double())
    of_64 = replace(case.observation, module=copy.deepcopy(case.observation.module).double(), kept={}, rounds=(),
                    shared={name: g.double() for name, g in case.observation.shared.items()},
                    mean=case.observation.mean.double(), std=case.observation.std.double())
    expected = Identifier().scores(of_64, candidates, seed=0)
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], rtol=1e-4, atol=1e-2)


def expected_without_noise(case: Case, members) -> torch.Tensor:
    """The squared distances of what a client shares of each candidate, in units of the size of rounding, [N, M]; where the last
    defense hides entries, over the others, and what a candidate has in hidden ones beyond what can be hidden there."""
    observation, candidates = case.observation, case.candidates
    masked = isinstance(members[-1], defenses.GradientPruning)
    found = torch.zeros(candidates.pools.shape, dtype=torch.float64)
    for victim, pool in enumerate(candidates.pools):
        for column, candidate in enumerate(pool):
            own = through(members[:-1] if masked else members, gradient_of(observation, candidates.images[candidate],
                                                                           candidates.labels[candidate]), observation.module)
            for name, g in own.items():
                shared = observation.shared[name][victim].double()
                kept = shared != 0 if masked else torch.ones_like(shared, dtype=torch.bool)
                distance = (g - shared)[kept].square().sum()
                if masked:
                    distance += (g[~kept].square().sum() - (~kept).sum() * shared[kept].abs().min() ** 2).clamp_min(0)
                found[victim, column] += distance / (2 * 1e-6 * shared.square().mean())
    return found


WITHOUT_NOISE = [
    (defenses.NoDefense(),), (PRUNING,), (defenses.GradientPruning(p=0.99),), (CLIPPING,), (SCALING,), (ROUNDING,), (SIGNS,),
    (defenses.DPSGD(noise_multiplier=0.0, max_grad_norm=0.3),), (CLIPPING, PRUNING), (SCALING, PRUNING), (PRUNING, SCALING),
    (ROUNDING, PRUNING), (PRUNING, ROUNDING), (CLIPPING, SIGNS), (SCALING, CLIPPING, PRUNING), (PRUNING, SIGNS), (CLIPPING, SCALING),
]


# Clipped pixels give entries of equal size in the MLP's first layer, of which pruning keeps any.
@pytest.mark.parametrize(("members", "model"), [
    (members, model) for members in WITHOUT_NOISE for model in ("lenet", "mlp")
    if model == "lenet" or members[0] is not PRUNING or len(members) == 1], ids=lambda value: value if isinstance(value, str) else ids(value))
def test_without_noise_the_truth_is_first(members, model):
    case = case_of(chain(*members), model, dtype=torch.float64)
    assert Identifier().method(case.observation) == Method("exact", True)
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    reference = [defenses.GradientClipping(0.3) if isinstance(member, defenses.DPSGD) else member for member in members]
    # Distances follow from inner products, so that those that are nothing beside the gradients are rounded.
    torch.testing.assert_close(found, expected_without_noise(case, reference), rtol=1e-6, atol=1e-3)
    assert not case.ranks(found).any()


@pytest.mark.parametrize("members", [*WITHOUT_NOISE, (PRUNING, replace(NOISE, std=1e-4)), (SIGNS, replace(NOISE, std=0.1)),
                                     (CLIPPING, replace(LAPLACIAN, std=1e-3)), (replace(NOISE, std=1e-4), PRUNING)], ids=ids)
def test_the_truth_is_first_in_float32(members):
    case = case_of(chain(*members), "batch-norm")
    assert not case.ranks(Identifier().scores(case.observation, case.candidates, seed=0)).any()


@pytest.mark.parametrize("members", [(Stochastic(),), (CLIPPING, Stochastic()), (Stochastic(), SCALING)], ids=ids)
def test_of_intervals_the_entries_outside_count(members):
    """As many as are further than rounding from what they may have been; the truth has none."""
    case = case_of(chain(*members), dtype=torch.float64)
    assert Identifier().method(case.observation) == Method("exact", False)
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    expected = torch.zeros_like(found)
    clipped = members[:1] if members[0] is CLIPPING else ()
    factor = SCALING.factor if members[-1] is SCALING else 1
    for victim, pool in enumerate(case.candidates.pools):
        for column, candidate in enumerate(pool):
            own = through(clipped, gradient_of(case.observation, case.candidates.images[candidate], case.candidates.labels[candidate]),
                          case.observation.module)
            expected[victim, column] = sum(
                ((g - case.observation.shared[name][victim] / factor).abs() > 0.02 + 1e-3 * g.square().mean().sqrt()).sum()
                for name, g in own.items()) / 2e-6
    torch.testing.assert_close(found, expected)
    assert not found.gather(1, case.true[:, None]).any() and found.amax(1).min() > 0


def test_intervals_before_noise_have_no_closed_form():
    assert Identifier().method(case_of(Composition((Stochastic(), NOISE))).observation) == Method("simulated", False)


@pytest.mark.parametrize("hidden", [True, False])
def test_where_it_is_not_said_how_much_was_hidden_hidden_entries_do_not_count(hidden):
    @dataclass(frozen=True)
    class Said(Defense):
        name: ClassVar[str] = "said"

        def release(self, shared, facts):
            return {name: Release((defenses.Kept(1, self.mask(g)),)) for name, g in shared.items()}

        def mask(self, g):
            return torch.arange(g[0].numel()).view(g[0].shape).remainder(3).gt(0 if hidden else -1).expand_as(g)

    case = case_of("none", dtype=torch.float64)
    shared = {name: g * Said().mask(g) for name, g in case.observation.shared.items()}
    found = Identifier().scores(replace(case.observation, defense=Said(), shared=shared, kept={}, rounds=()), case.candidates, seed=0)
    expected = torch.zeros_like(found)
    for victim, pool in enumerate(case.candidates.pools):
        for column, candidate in enumerate(pool):
            own = gradient_of(case.observation, case.candidates.images[candidate], case.candidates.labels[candidate])
            for name, g in shared.items():
                distance = (own[name] - g[victim])[Said().mask(g)[victim]].square().sum()
                expected[victim, column] += distance / (2e-6 * g[victim].square().mean())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-3)


@dataclass(frozen=True)
class Otherwise(defenses.GradientClipping):
    """Clips as it says, and tells of the last parameter something else."""

    name: ClassVar[str] = "otherwise"
    last: Callable[[Release], Release] = lambda release: release

    def release(self, shared, facts):
        told = super().release(shared, facts)
        return {name: self.last(release) if name == list(shared)[-1] else release for name, release in told.items()}


@pytest.mark.parametrize("last", [
    lambda release: Release((Unknown(),)), lambda release: release.then(release), lambda release: Release(),
    lambda release: Release((replace(release.stages[0], norm=0.02),)), lambda release: Release((replace(release.stages[0], images=2),)),
], ids=["unknown", "twice", "not clipped", "another norm", "each of several images"])
def test_a_clip_that_cannot_be_made_after_leaves_the_scale_free(last):
    """Then the scale that fits best is taken, which is no likelihood."""
    case = case_of(Otherwise(norm=0.01, last=last), dtype=torch.float64)
    assert not ImageLikelihood(case.observation).exact
    found = Identifier().scores(case.observation, case.candidates, seed=0)
    assert not case.ranks(found).any() and found.gather(1, case.true[:, None]).abs().max() < 1e-3
    shared = {name: g * torch.tensor([0.5, 2.0, 3.0]).view(-1, *[1] * (g.dim() - 1)) for name, g in case.observation.shared.items()}
    other = Identifier().scores(replace(case.observation, shared=shared, kept={}, rounds=()), case.candidates, seed=0)
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("stages", [
    lambda names: (defenses.Clipped(0.01, names, 2),), lambda names: (defenses.Clipped(0.01, names[:-1]),),
    lambda names: (defenses.Sign(), defenses.Clipped(0.01, names))], ids=["several images", "some parameters", "after another stage"])
def test_so_does_one_that_all_parameters_have(stages):
    @dataclass(frozen=True)
    class Said(Defense):
        name: ClassVar[str] = "said"

        def release(self, shared, facts):
            return dict.fromkeys(shared, Release(stages(tuple(shared))))

    case = case_of("none", dtype=torch.float64)
    compare = ImageLikelihood(replace(case.observation, defense=Said()))
    assert not compare.exact and compare._free_scale


def test_a_candidate_against_the_direction_is_as_unlikely_as_one_across_it():
    case = case_of(Composition((defenses.PRECODE(bottleneck_size=4), DP_SGD)), dtype=torch.float64)
    compare = ImageLikelihood(case.observation, ["0"])
    assert set(compare._compared) == {"0.weight", "0.bias"} and not compare.exact
    along = {name: FormedRows(case.observation.shared[name][:1].flatten(1)) for name in compare._compared}
    against = {name: rows.scaled(-1.0) for name, rows in along.items()}
    best, worst = (compare(rows, torch.tensor([0])).item() for rows in (along, against))
    energy = sum(case.observation.shared[name][0].square().sum() for name in compare._compared) / (2 * 0.06**2)
    assert best == pytest.approx(0, abs=1e-6) and worst == pytest.approx(energy.item())


def test_parameters_of_which_nothing_is_known_are_left_out():
    @dataclass(frozen=True)
    class Partly(Defense):
        name: ClassVar[str] = "partly"

        def transform_gradients(self, gradients, step):
            return {name: torch.zeros_like(g) if name == "0.weight" else g for name, g in gradients.items()}

        def release(self, shared, facts):
            return {name: Release((Unknown(),) if name == "0.weight" else ()) for name in shared}

    case = case_of(Partly(), dtype=torch.float64)
    assert Identifier().method(case.observation) == Method("exact", False)
    assert not case.ranks(Identifier().scores(case.observation, case.candidates, seed=0)).any()
    with pytest.raises(ValueError, match="nothing is known of the gradient of any parameter"):
        ImageLikelihood(case_of("decoy").observation)


def test_where_nothing_was_shared_a_candidate_that_would_have_shared_something_is_out():
    case = case_of("none", dtype=torch.float64)
    shared = {name: torch.zeros_like(g) if name == "3.weight" else g for name, g in case.observation.shared.items()}
    found = Identifier().scores(replace(case.observation, shared=shared, kept={}, rounds=()), case.candidates, seed=0)
    assert found.isfinite().all() and found.min() > 1e30
