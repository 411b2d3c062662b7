"""The engine against plain double backward in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from attack_cases import observation_of, reference
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import defenses
from attacks import InvertingGradients
from attacks.engine.general import GeneralStep
from attacks.engine.matcher import GradientMatcher
from attacks.engine.slots import Slots
from attacks.objective.comparison import explicit
from attacks.objective.costs import Cosine
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation, total_variation, with_derivative
from benchmark.measure.metrics import ssim
from defenses.support.seeds import VictimNoise, derive


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("model", ["lenet", "mlp", "batch-norm"])
@pytest.mark.parametrize("defense", ["none", "precode", "pruning", "noise", "cvb", "dropout"])
def test_objective_and_derivative_against_double_backward(defense, model, batch_size):
    observation, _ = observation_of(defense, model, batch_size=batch_size, dtype=torch.float64)
    x = torch.randn(3, batch_size, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    matcher = GradientMatcher(observation, observation.labels, Objective(terms=(TotalVariation(0.3),)), seeds=[9, 10, 11])
    epsilon = observation.samples_of([
        VictimNoise([derive(9 + v, "bottleneck", i) for v in range(3)], (batch_size, *shape), x, block=64).draw()
        for i, shape in enumerate(observation.sample_shapes)
    ])
    derivative, objective = matcher.step(x)
    for victim in range(3):
        expected_objective, expected = reference(observation, x, 0.3, victim, epsilon)
        torch.testing.assert_close(objective[victim], expected_objective, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(derivative[victim], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("defense", ["precode", "cvb", "ppp", "dropout"])
def test_under_codes_the_derivative_is_that_of_the_objective(defense, general):
    """By a central difference along a direction. The sample by which an image comes to a code depends on the image; held constant in
    the derivative (as to the client it was), the search ends where the objective is not least."""
    observation, x = observation_of(defense, "lenet", dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    code, candidate, towards = (torch.randn(shape, dtype=torch.float64, generator=generator)
                                for shape in ((3, 1, *observation.sample_shapes[0]), x.shape, x.shape))
    objective = Objective(Cosine(per_layer=True), (TotalVariation(0.1),), codes=(code * (code.abs() > 0.5),))
    if general:
        formed = GeneralStep(observation, observation.labels, objective, Slots(range(3), 3, reloaded=False))
        step = partial(formed, samples=[])
    else:
        step = GradientMatcher(observation, observation.labels, objective, seeds=range(3)).step
    h = 1e-6
    difference = (step(candidate + h * towards)[1] - step(candidate - h * towards)[1]) / (2 * h)
    torch.testing.assert_close((step(candidate)[0] * towards).flatten(1).sum(1), difference, rtol=1e-5, atol=1e-9)


def test_a_whole_attack_against_a_plain_loop():
    """Signed Adam with the schedule of the paper, one victim, in float64: the same images after 300 iterations."""
    observation, originals = observation_of("none", "lenet", dtype=torch.float64)
    found = InvertingGradients(iterations=300, total_variation=1e-3).reconstruct(observation, seed=3)
    similarity = []
    for victim in range(3):
        x = VictimNoise([derive(3, victim, "start", 0)], (1, 2, 8, 8), observation.mean).draw()
        x.requires_grad_()
        optimizer = torch.optim.Adam([x], lr=0.1)
        for iteration in range(300):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * 0.1 ** sum(iteration >= 300 * part // 8 for part in (3, 5, 7))
            x.grad = reference(observation, x.detach().expand(3, 1, 2, 8, 8), 1e-3, victim)[1].sign().view_as(x)
            optimizer.step()
            with torch.no_grad():
                x.clamp_(-2, 2)  # pixels 0 and 1 under mean 0.5 and standard deviation 0.25
        plain = x.detach()[0] * 0.25 + 0.5
        original = (originals[victim, 0] * 0.25 + 0.5).numpy()
        similarity.append([ssim(original, image.numpy()) for image in (plain[0], found.images[victim, 0])])
        torch.testing.assert_close(found.images[victim], plain, rtol=0, atol=1e-6)
    assert all(abs(plain - engine) < 1e-3 for plain, engine in similarity), similarity
    assert max(plain for plain, _ in similarity) > 0.5  # the attack did something


@given(scale=st.floats(1e-12, 1e6), seed=st.integers(0, 50))
def test_cosine_does_not_depend_on_the_scale(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(2, 4, 3, generator=generator) for _ in range(2))

    def cost(g):
        return Objective()({"l.w": explicit(g, b)}, {"l.w": b.square().sum((1, 2))})

    torch.testing.assert_close(cost(scale * a), cost(a), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cost(scale * b), torch.zeros(2), rtol=0, atol=1e-5)


def test_cosine_of_a_zero_gradient_is_finite_with_its_derivative():
    a, b = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3)
    cost = Objective()({"l.w": explicit(a, b)}, {"l.w": torch.tensor([3.0])})
    cost.backward()
    assert cost.item() == 1 and torch.isfinite(a.grad).all()


def test_total_variation_by_hand():
    image = torch.tensor([[[0.0, 1.0], [3.0, 0.0]]])
    assert total_variation(image[None]).item() == pytest.approx((3 + 1) / 2 + (1 + 3) / 2)


@given(height=st.integers(1, 5), width=st.integers(1, 5), batch=st.integers(1, 3), seed=st.integers(0, 20))
def test_total_variation_and_its_derivative_in_closed_form(height, width, batch, seed):
    """Against autograd; images of few values, so that some neighbours are equal."""
    x = torch.randint(3, (2, batch, 2, height, width), generator=torch.Generator().manual_seed(seed)).double().requires_grad_()
    value, derivative = with_derivative(x.detach())
    if height == 1 or width == 1:  # no neighbours, whose mean is not a number
        assert torch.isfinite(value).all() and torch.isfinite(derivative).all()
        return
    expected = total_variation(x)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(derivative, torch.autograd.grad(expected.sum(), x)[0])


def test_of_several_restarts_the_cheapest_is_kept():
    observation, _ = observation_of("none", "lenet")
    one, three = (InvertingGradients(iterations=5, restarts=r).reconstruct(observation, seed=0) for r in (1, 3))
    assert (three.cost <= one.cost).all() and (three.cost < one.cost).any()


def test_a_gradient_that_is_not_finite_leaves_the_start():
    observation, _ = observation_of("none", "lenet")
    for gradient in observation.shared.values():
        gradient[1] = float("nan")
    found = InvertingGradients(iterations=4).reconstruct(observation, seed=0)
    assert torch.isfinite(found.images).all() and found.cost.isnan().tolist() == [False, True, False]


def test_attack_knows_the_regularizer():
    """A defense whose regularizer reads parameters: its gradient is part of what is matched."""
    class Decay(defenses.Defense):
        def regularizer(self, module):
            return sum(p.square().sum() for p in module.parameters())

    observation, x = observation_of("none", "lenet", dtype=torch.float64)
    module = observation.module
    loss = F.cross_entropy(module(x[0]), observation.labels[0]) + Decay().regularizer(module)
    gradients = dict(zip(observation.shared, torch.autograd.grad(loss, list(module.parameters())), strict=True))
    object.__setattr__(observation, "defense", Decay())
    object.__setattr__(observation, "shared", {name: g.expand(3, *g.shape) for name, g in gradients.items()})
    matcher = GradientMatcher(observation, observation.labels, Objective(), seeds=[0, 0, 0])
    assert matcher.step(x)[1][0].item() == pytest.approx(0, abs=1e-12)
