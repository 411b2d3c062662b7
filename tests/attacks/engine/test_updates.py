"""Updates of simulated local steps, and gradients between both ends, against torch.autograd by hand in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from attack_cases import observation_of
from model_cases import MODELS
from torch.func import functional_call
from torch.nn import functional as F

from attacks.engine.matcher import GradientMatcher
from attacks.engine.slots import Slots
from attacks.engine.updates import SurrogateStep, UnrolledStep, mean_gradient
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from defenses import LocalSteps


def by_hand(module, x, y, batches, step_size):
    """The mean of the gradients of SGD steps, with a graph."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    seen = []
    for batch in batches:
        loss = F.cross_entropy(functional_call(module, weights, (x[batch],)), y[batch])
        seen.append(torch.autograd.grad(loss, list(weights.values()), create_graph=True))
        weights = {name: w - step_size * g for (name, w), g in zip(weights.items(), seen[-1], strict=True)}
    return [sum(of) / len(batches) for of in zip(*seen, strict=True)]


def cost_of(objective, own, observed):
    a, b = (torch.cat([g.flatten() for g in group]) for group in (own, observed))
    return (a - b).square().sum() if isinstance(objective.cost, Euclidean) else 1 - torch.dot(a, b) / (a.norm() * b.norm())


@pytest.mark.parametrize("cost", [Objective(), Objective(Euclidean())], ids=["cosine", "euclidean"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batches", [None, [slice(0, 2), slice(2, 3), slice(3, 5), slice(5, 6)]], ids=["all", "parts"])
def test_unrolled_gradients_are_those_of_autograd(model, cost, batches):
    count = 3 if batches is None else 6
    local = LocalSteps(4, 0.5, None if batches is None else 2)
    observation, x = observation_of("none", model, batch_size=3, local=local, dtype=torch.float64)
    x = torch.cat([x, -x], 1)[:, :count] + 0.3
    labels = torch.cat([observation.labels] * 2, 1)[:, :count]
    step = UnrolledStep(observation, labels, cost, Slots(range(3), 3, reloaded=False), batches=batches)
    derivative, found = step(x, [])
    for victim in range(3):
        candidate = x[victim].clone().requires_grad_()
        own = by_hand(observation.module, candidate, labels[victim], batches or [slice(0, count)] * 4, 0.5)
        expected = cost_of(cost, own, [g[victim] for g in observation.shared.values()])
        torch.testing.assert_close(found[victim], expected.detach(), rtol=1e-9, atol=1e-12)
        (by_image,) = torch.autograd.grad(expected, candidate)
        torch.testing.assert_close(derivative[victim], by_image, rtol=1e-9, atol=1e-9 * float(by_image.abs().max()))


def test_the_original_explains_its_update():
    observation, x = observation_of("none", "lenet", local=LocalSteps(5, 0.5), dtype=torch.float64)
    matcher = GradientMatcher(observation, observation.labels, Objective(), seeds=[0, 1, 2])
    assert isinstance(matcher.step_of_slots, UnrolledStep)
    assert (matcher.step(x)[1] < 1e-12).all() and (matcher.step(x + 0.1)[1] > 1e-6).all()


@pytest.mark.parametrize("model", MODELS)
def test_between_both_ends_it_is_the_gradient_at_that_point(model):
    local = LocalSteps(3, 0.5, 1)
    observation, x = observation_of("none", model, batch_size=2, local=local, dtype=torch.float64)
    matcher = GradientMatcher(observation, observation.labels, Objective(terms=(TotalVariation(0.1),)), seeds=[0, 1, 2],
                              kind=partial(SurrogateStep, resolution=10.0))
    alpha = torch.tensor([[0.0], [3.0], [9.0]], dtype=torch.float64)
    derivative, by_alpha, found = matcher.step_with(x, [alpha])
    halfway = matcher.step_of_slots(x, [])
    for victim in range(3):
        for given, seen in ((alpha[victim], (derivative[victim], found[victim])),
                            (torch.full((1,), 5.0, dtype=torch.float64), (halfway[0][victim], halfway[1][victim]))):
            candidate, own_alpha = x[victim].clone().requires_grad_(), given.clone().requires_grad_()
            weights = {name: p.detach() - own_alpha[0] / 10 * 1.5 * observation.shared[name][victim]
                       for name, p in observation.module.named_parameters()}
            loss = F.cross_entropy(functional_call(observation.module, weights, (candidate,)), observation.labels[victim])
            own = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            expected = cost_of(Objective(), own, [g[victim] for g in observation.shared.values()])
            expected = expected + 0.1 * sum(candidate.diff(dim=d).abs().mean() for d in (-1, -2))
            torch.testing.assert_close(seen[1], expected.detach(), rtol=1e-9, atol=1e-12)
            by_image, of_alpha = torch.autograd.grad(expected, (candidate, own_alpha))
            torch.testing.assert_close(seen[0], by_image, rtol=1e-8, atol=1e-10)
            if given is alpha[victim]:
                torch.testing.assert_close(by_alpha[victim], of_alpha, rtol=1e-8, atol=1e-12)


def test_steps_on_a_parabola():
    """Of w^2 / 2 each step takes off the same share."""
    found = mean_gradient(lambda weights, _: {"w": weights["w"]}, {"w": torch.tensor(8.0)}, [slice(0, 1)] * 3, 0.5)
    assert float(found["w"]) == pytest.approx((8 + 4 + 2) / 3)


def test_more_steps_take_more_memory():
    def kept(steps):
        observation, x = observation_of("none", "lenet", batch_size=2, local=LocalSteps(steps, 0.1))
        matcher = GradientMatcher(observation, observation.labels, Objective(), seeds=[0, 1, 2])
        return matcher.bytes_per_victim(x[:1])

    assert 3.5 * kept(2) < kept(8) < 4.5 * kept(2)
