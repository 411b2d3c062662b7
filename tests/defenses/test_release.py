"""What releases say, over all ordered pairs of stages: the clean gradient is never outside, and the noise has the stated law."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_cases import Rounding, Scaling
from torch import nn

from defenses import (
    Clipped,
    Composition,
    Defense,
    Facts,
    GradientClipping,
    GradientSigns,
    Intervals,
    Kept,
    Noise,
    NoisyGradients,
    Release,
    Scaled,
    Sign,
    Step,
    Unknown,
)
from defenses.density import log_density
from defenses.pruning import GradientPruning
from defenses.stages import Bounds

STAGES = [GradientPruning(p=0.4), Rounding(), GradientSigns(), Scaling(), GradientClipping(norm=2.0), NoisyGradients(std=0.3), NoisyGradients(std=0.3, distribution="laplacian")]
PAIRS = [(a, b) for a, b in permutations(STAGES, 2) if a.name != b.name]
MODULE = nn.Linear(30, 20, dtype=torch.float64)


def step(seed: int) -> Step:
    return Step(MODULE, None, 1, torch.Generator().manual_seed(seed), {name: {} for name in ("pruning", "noise", "sign", "rounding", "scaling", "clipping")}, 0, None)


def gradients(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in MODULE.named_parameters()}


def shared_and_told(defense: Defense, clean, seed: int):
    shared = {name: g[None] for name, g in defense.transform_gradients(clean, step(seed)).items()}
    return shared, defense.release(shared, Facts(1, 0, MODULE, (2, 8, 8)))


@pytest.mark.parametrize("members", PAIRS, ids=lambda pair: "+".join(member.label for member in pair))
@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_the_clean_gradient_is_never_outside_and_no_stage_is_dropped(members, seed):
    clean = gradients(seed)
    shared, told = shared_and_told(Composition(members), clean, seed)
    single = [len(shared_and_told(member, clean, seed)[1]["weight"].stages) for member in members]
    for name, chain in told.items():
        assert len(chain.stages) == sum(single)
        low, high = chain.bounds(shared[name])
        assert (low <= clean[name] + 1e-12).all() and (clean[name] <= high + 1e-12).all()


@pytest.mark.parametrize("noise", STAGES[5:], ids=lambda noise: noise.distribution)
@pytest.mark.parametrize("first", STAGES[:5], ids=lambda member: member.label)
def test_noise_behind_a_stage_has_the_stated_law_around_what_the_candidate_becomes(first, noise):
    clean = gradients(7)
    shared, told = shared_and_told(Composition((first, noise)), clean, 11)
    own = passed({name: told[name].form.before[0] for name in clean}, {name: g[None] for name, g in clean.items()})
    form = told["weight"].form
    assert form.noise == Noise(0.09, noise.distribution) and len(form.before) == 1 and not form.after
    drawn = torch.cat([(shared[name] - own[name]).flatten() for name in shared]).numpy()
    scale = 0.3 if noise.distribution == "gaussian" else 0.3 / math.sqrt(2)
    law = scipy.stats.norm(scale=scale) if noise.distribution == "gaussian" else scipy.stats.laplace(scale=scale)
    assert scipy.stats.kstest(drawn, law.cdf).pvalue > 0.01


@pytest.mark.parametrize("last", STAGES[:4], ids=lambda member: member.label)
@pytest.mark.parametrize("noise", STAGES[5:], ids=lambda noise: noise.distribution)
def test_a_stage_behind_noise_tells_an_interval_of_the_noisy_gradient(noise, last):
    clean = gradients(7)
    noisy = noise.transform_gradients(clean, step(3))
    shared, told = shared_and_told(Composition((noise, last)), clean, 3)
    form = told["weight"].form
    assert form.noise.variance == pytest.approx(0.09) and len(form.after) == 1
    for name in shared:
        low, high = Release(told[name].form.after).bounds(shared[name])
        assert (low <= noisy[name] + 1e-12).all() and (noisy[name] <= high + 1e-12).all()


def test_what_has_no_closed_form_is_said_to_be_unknown():
    noise, mask = Noise(0.1), Kept(3, torch.ones(1, 4, dtype=torch.bool), torch.zeros(1))
    assert Release((noise, mask, noise)).form is None  # noise upon what noise had decided
    assert Release((noise, Clipped(1.0, ("a",)))).form is None
    assert Release((Intervals(0.1, 0.1), noise)).form is None  # no function
    assert Release((Unknown(), noise)).form is None
    assert Release((noise, Scaled(3.0), noise)).form.noise.variance == pytest.approx(0.9 + 0.1)
    assert Release((Noise(0.1, "laplacian"), Noise(0.1, "laplacian"))).form.noise == Noise(0.2)


def passed(stages, gradients):
    """What gradients become by one stage each; clipping is over all of them."""
    if not any(isinstance(stage, Clipped) for stage in stages.values()):
        return {name: stages[name].passed(g) for name, g in gradients.items()}
    factor = stages["weight"].factor(sum(g.flatten(1).square().sum(1) for g in gradients.values()))
    return {name: factor.view(-1, *[1] * (g.dim() - 1)) * g for name, g in gradients.items()}


def test_the_log_density_is_that_of_scipy():
    """Known entries by their density, hidden ones by the mass of what they may have been, also far out."""
    g = torch.tensor([[0.5, -1.0, 2.0, 0.1, 5.0, -5.0]], dtype=torch.float64)
    shared = torch.tensor([[0.7, -1.4, 2.1, 0.0, 0.0, 0.0]], dtype=torch.float64)
    for distribution, law in (("gaussian", scipy.stats.norm(scale=0.5)), ("laplacian", scipy.stats.laplace(scale=0.5 / math.sqrt(2)))):
        noise = Noise(0.25, distribution)
        found = log_density(noise, g, Bounds(shared, shared))
        torch.testing.assert_close(found, torch.from_numpy(law.logpdf((shared - g).numpy())))
        hidden = Release((Kept(3, shared != 0, torch.tensor([0.7], dtype=torch.float64)),)).bounds(shared)
        found = log_density(noise, g, hidden)[0]
        torch.testing.assert_close(found[:3], torch.from_numpy(law.logpdf((shared - g).numpy()))[0, :3])
        for entry in (3, 4, 5):
            mirrored = -abs(g[0, entry].item())
            expected = math.log(law.cdf(mirrored + 0.7) - law.cdf(mirrored - 0.7))
            assert found[entry].item() == pytest.approx(expected)
        signs = torch.tensor([[1.0, -1.0, 1.0, -1.0, -1.0, 1.0]], dtype=torch.float64)
        found = log_density(noise, g, Release((Sign(),)).bounds(signs))[0]
        expected = [law.logsf(-v) if s > 0 else law.logcdf(-v) for v, s in zip(g[0].tolist(), signs[0].tolist(), strict=True)]
        assert found.tolist() == pytest.approx(expected)


@given(rounds=st.integers(2, 50))
def test_averaged_rounds_have_less_noise(rounds):
    kept = Kept(1, torch.ones(1, 1, dtype=torch.bool), torch.ones(1))
    averaged = Release((Scaled(2.0), Noise(0.4, "laplacian"))).averaged(rounds)
    assert averaged.form.noise == Noise(0.4 / rounds) and averaged.form.before == (Scaled(2.0),)
    assert Release().averaged(rounds) == Release()
    assert Release((Noise(0.4), kept)).averaged(rounds).form is None and Release((kept,)).averaged(1).form is not None


@pytest.mark.parametrize("arguments", [(0.0,), (math.inf,), (1.0, "cauchy")])
def test_noise_that_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        Noise(*arguments)
