"""Terms of an objective beside the matching of gradients, in both steps, against autograd."""

from __future__ import annotations

import pytest
import torch
from attack_cases import observation_of

from attacks import SeeThroughGradients
from attacks.engine.matcher import GradientMatcher
from attacks.engine.tracing import Unsuitable
from attacks.objective.anchors import Anchors
from attacks.objective.energy import Energy
from attacks.objective.features import Features
from attacks.objective.objective import Objective
from attacks.objective.statistics import Statistics
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_term_against_autograd(general, batch_size, monkeypatch):
    if general:
        def unsuitable(*arguments):
            raise Unsuitable("asked for")

        monkeypatch.setattr("attacks.engine.matcher.StructuredStep", unsuitable)
    observation, _ = observation_of("none", "batch-norm", batch_size=batch_size, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    x, anchors = (torch.randn(3, batch_size, 2, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    known = torch.randn(3, batch_size, 64, generator=generator, dtype=torch.float64)
    plain = Objective()
    objective = Objective(terms=(Features(0.7, "classifier", known), Statistics(0.3), Energy(0.2), Anchors(0.4, anchors)))
    (derivative, cost), (by_plain, plain_cost) = (
        GradientMatcher(observation, observation.labels, o, seeds=range(3)).step(x) for o in (objective, plain))
    module = observation.module
    for victim in range(3):
        image = x[victim].clone().requires_grad_()
        before = module.convolution(image)
        features = torch.relu(module.norm(before)).flatten(1)
        statistics = (before.mean((0, 2, 3)) - module.norm.running_mean).norm() + (before.var((0, 2, 3), correction=0) - module.norm.running_var).norm()
        term = (0.7 * (features - known[victim]).square().mean() / known[victim].var() + 0.3 * statistics
                + 0.2 * image.square().mean() + 0.4 * (image - anchors[victim]).square().mean())
        torch.testing.assert_close(cost[victim] - plain_cost[victim], term.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(derivative[victim] - by_plain[victim], torch.autograd.grad(term, image)[0], rtol=1e-7, atol=1e-10)


def test_some_of_the_victims_have_their_own_targets():
    observation, _ = observation_of("none", "lenet", dtype=torch.float64)
    x = torch.randn(3, 1, 2, 8, 8, dtype=torch.float64)
    objective = Objective(terms=(Features(1.0, "3", torch.randn(3, 1, 48, dtype=torch.float64)), Anchors(1.0, torch.randn_like(x))))
    whole = GradientMatcher(observation, observation.labels, objective, seeds=range(3)).step(x)[1]
    part = GradientMatcher(observation, observation.labels, objective, seeds=range(2), positions=[2, 0], reloaded=True)
    torch.testing.assert_close(part.step(x[[2, 0]])[1], whole[[2, 0]])
    part.load(0, 1, 5)
    torch.testing.assert_close(part.step(x[[1, 0]])[1], whole[[1, 0]])


def test_statistics_are_asked_for_where_there_are_some():
    attack = SeeThroughGradients()
    weights = [[term.weight for term in attack.objective(observation_of("none", model)[0]).terms if isinstance(term, Statistics)]
               for model in ("batch-norm", "lenet")]
    assert weights == [[pytest.approx(1e3)], []]


def test_a_group_is_drawn_together():
    observation, _ = observation_of("none", "lenet")
    alone, together = (SeeThroughGradients(iterations=40, restarts=3, total_variation=0.0, group=weight) for weight in (0.0, 10.0))
    assert alone.reconstruct(observation, seed=0).images.shape == (3, 1, 2, 8, 8)
    begun = []

    def noted(problem, **others):
        begun.append((problem.begin, [term.images for term in problem.objective.terms if isinstance(term, Anchors)]))
        return original(problem, **others)

    original = SeeThroughGradients.reconstruct.__globals__["minimise"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SeeThroughGradients.reconstruct.__globals__, "minimise", noted)
        together.reconstruct(observation, seed=0)
    (first, none), (begin, (anchors,)) = begun
    assert first is None and none == []
    torch.testing.assert_close(anchors, begin.mean(1))


def test_a_problem_can_begin_from_given_images():
    observation, x = observation_of("none", "lenet")
    problem = Problem(observation, observation.labels, Objective(), Schedule(1, 0.1, 10), 0, begin=torch.stack((x, -x), 1))
    from attacks.search.problem import Start
    assert torch.equal(problem.first_images([Start(2, 1), Start(0, 0)]), torch.stack((-x[2], x[0])))
    assert Objective(terms=(Energy(1.0), Anchors(1.0, x))).select([1]).terms[1].images.equal(x[[1]])
