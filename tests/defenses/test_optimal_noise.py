from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from identification_cases import case_of
from model_cases import MODELS, batch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import defenses
from attacks.identification import Identifier
from defenses import Batch, OptimalNoise, Step, client_loss
from defenses.optimal_noise import Reciprocal

X, Y = (tensor[:2] for tensor in batch())
X = X.double()


def lenet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS["lenet"]().double()


def client(module: nn.Module, seed: int = 0) -> Step:
    def losses(batch, replaced=None):
        return client_loss(None, module if replaced is None else replaced, *batch)

    return Step(module, Batch(X, Y), 2, torch.Generator().manual_seed(seed), {}, 0, losses)


def jacobian(module: nn.Module) -> dict[str, torch.Tensor]:
    """The norm of each entry's derivative by the images, by torch.func."""
    def gradient(x):
        return torch.func.grad(lambda p: F.cross_entropy(functional_call(module, p, x), Y))(dict(module.named_parameters()))

    return {name: of.flatten(of.dim() - 4).norm(dim=-1) for name, of in torch.func.jacrev(gradient)(X).items()}


def test_the_derivatives_norms_are_estimated_without_bias():
    module = lenet()
    exact = jacobian(module)
    found = OptimalNoise(probes=150)._sensitivities(client(module))
    for name, norms in exact.items():
        # The mean of n squares of a normal number is off by sqrt(2 / n), of which the largest of 241 is some four times as much.
        torch.testing.assert_close(found[name].sqrt(), norms, rtol=4.5 * math.sqrt(2 / 150) / 2, atol=1e-12)


def test_the_noise_has_the_stated_variances():
    module, defense = lenet(), OptimalNoise(std=0.3, probes=100)
    gradients = client(module).gradient(Batch(X, Y))
    ratios = {name: norms / gradients[name].abs() for name, norms in jacobian(module).items()}
    mean = torch.cat([ratio.flatten() for ratio in ratios.values()]).mean()
    units = []
    for seed in range(4):
        for name, g in defense.transform_gradients(gradients, client(module, seed)).items():
            units.append(((g - gradients[name]) / (0.3 * (ratios[name] / mean).sqrt())).detach().flatten())
    assert scipy.stats.kstest(torch.cat(units).numpy(), scipy.stats.norm.cdf).pvalue > 0.01


@given(seed=st.integers(0, 1000))
def test_no_other_variances_cost_a_step_less_for_the_same_information(seed):
    """Sum of g^2 v against the sum of J^2 / v: their product does not depend on the scale of v, and is least at J / |g|."""
    generator = torch.Generator().manual_seed(seed)
    g, j, other = (torch.randn(12, generator=generator, dtype=torch.float64).abs() + 0.01 for _ in range(3))

    def product(v):
        return (g.square() * v).sum() * (j.square() / v).sum()

    assert product(j / g) <= product(j / g * other.pow(0.1)) + 1e-12


def test_a_candidate_counts_by_its_likelihood_under_the_likeliest_factor():
    own, left = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def nats(log_factor: float) -> float:
        std = (math.exp(log_factor) / own.abs()).sqrt()
        return -float(scipy.stats.norm.logpdf(left, own, std).sum()) - 6 * math.log(2 * math.pi)

    least = scipy.optimize.minimize_scalar(nats)
    assert float(Reciprocal(0.1).surprise(own, left)) == pytest.approx(least.fun - 6, rel=1e-8)


def test_what_is_said_to_be_expected_is_not_more_than_what_is_found():
    module = lenet()
    gradients = client(module).gradient(Batch(X, Y))
    shared = OptimalNoise().transform_gradients(gradients, client(module))
    for name, g in gradients.items():
        mean, variance = Reciprocal(0.1).typical(shared[name][None])
        assert mean < Reciprocal(0.1).surprise(g[None], shared[name][None]) and variance == g.numel() / 2


def test_images_are_told_apart_under_noise_that_would_hide_them_if_it_were_alike_for_all_entries():
    found = {}
    for defense in (OptimalNoise(std=3.0), defenses.NoisyGradients(std=3.0)):
        case = case_of(defense, victims=8, size=20)
        found[defense.name] = int((case.ranks(Identifier().scores(case.observation, case.candidates, seed=0)) == 0).sum())
    assert found["optimal-noise"] >= found["noise"] + 4


def test_the_running_statistics_of_batch_norm_change_once_a_step():
    modules = []
    for specification in ("none", "optimal-noise"):
        torch.manual_seed(0)
        module = copy.deepcopy(MODELS["batch-norm"]())
        private = defenses.create(specification).make_private(
            module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=None)
        private.backward(X.float(), Y)
        modules.append(private.module)
    torch.testing.assert_close(modules[0].norm.running_mean, modules[1].norm.running_mean)


def test_without_noise_nothing_is_done():
    module = lenet()
    gradients = client(module).gradient(Batch(X, Y))
    defense = replace(OptimalNoise(), std=0.0)
    assert defense.transform_gradients(gradients, client(module)) is gradients
    assert defense.release({"0.weight": None}, None) == {"0.weight": defenses.Release()}


@pytest.mark.parametrize(("arguments", "message"), [
    ({"std": -0.1}, "std must be a number >= 0"), ({"probes": 0}, "probes must be a whole number >= 1")])
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OptimalNoise(**arguments)
