"""The search for what a client sampled, beside its images."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from attack_cases import observation_of

import attacks
from attacks import JointSample
from attacks.engine.general import GeneralStep
from attacks.engine.matcher import GradientMatcher
from attacks.engine.tracing import Unsuitable
from attacks.objective.code import Code
from attacks.objective.costs import Cosine, Euclidean
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.layers import codes
from attacks.reading.recursion import read_code
from attacks.search.lbfgs import LBFGS
from attacks.search.minimise import minimise
from attacks.search.problem import Problem, Start
from attacks.search.schedule import Schedule
from attacks.search.signed_adam import SignedAdam
from defenses import client_loss
from defenses.cvb import ConvolutionalBottleneck
from defenses.stochastic import sampling
from defenses.support.seeds import VictimNoise, derive


def unsuitable(*arguments):
    raise Unsuitable("asked for")


def draws(observation, victims: int, seed: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(victims, observation.batch_size, *shape, generator=generator, dtype=torch.float64)
             for shape in observation.sample_shapes]
    return [0.8 * own + 0.1 for own in observation.samples_of(noise)]  # relaxed masks, where they are masks


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(("defense", "model"), [("cvb", "lenet"), ("dropout", "mlp"), ("cvb+precode(bottleneck_size=4)+dropout", "batch-norm")])
@pytest.mark.parametrize("cost", [Euclidean(), Cosine()])
def test_derivatives_by_images_labels_and_samples_against_double_backward(cost, defense, model, labels, general, monkeypatch):
    if general:
        monkeypatch.setattr("attacks.engine.matcher.StructuredStep", unsuitable)
    observation, _ = observation_of(defense, model, batch_size=2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 2, 2, 8, 8, generator=generator, dtype=torch.float64)
    logits = [torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)] * labels
    samples, layers = draws(observation, 3), list(observation.stochastic.values())
    matcher = GradientMatcher(observation, observation.labels, Objective(cost, sample_prior=0.3), seeds=range(3))
    assert isinstance(matcher.step_of_slots, GeneralStep) is general
    by_image, *by_others, found = matcher.step_with(x, [*logits, *samples])
    assert isinstance(matcher.step_of_slots, GeneralStep) is general  # both steps agree
    for victim in range(3):
        variables = [t[victim].clone().requires_grad_() for t in (x, *logits, *samples)]
        own = variables[1 + labels:]
        with sampling(layers, own):
            targets = variables[1].softmax(-1) if labels else observation.labels[victim]
            loss = client_loss(observation.defense, observation.module, variables[0], targets).mean()
        gradient = torch.autograd.grad(loss, list(observation.module.parameters()), create_graph=True)
        ours, theirs = (torch.cat([g.flatten() for g in one]) for one in (gradient, [g[victim] for g in observation.shared.values()]))
        expected = ((ours - theirs).square().sum() if isinstance(cost, Euclidean)
                    else 1 - torch.dot(ours, theirs) / (ours.norm() * theirs.norm()))
        for layer, sample in zip(layers, own, strict=True):
            prior = (sample.mean() - 0.5).abs() if layer.bounds == (0, 1) else 0.5 * sample.square().mean()
            expected = expected + 0.3 * prior
        torch.testing.assert_close(found[victim], expected.detach(), rtol=1e-9, atol=1e-12)
        derivatives = torch.autograd.grad(expected, variables)
        for one, derivative in zip((by_image, *by_others), derivatives, strict=True):
            torch.testing.assert_close(one[victim], derivative, rtol=1e-8, atol=1e-12)


def test_the_samples_that_made_the_codes_give_what_replaying_the_codes_gives():
    """In value; in the derivative by the image too, with the part by which the samples follow the image."""
    observation, x = observation_of("precode(bottleneck_size=4)", "lenet", dtype=torch.float64)
    (layer,), (code,) = observation.stochastic.values(), codes(observation)
    candidate = (x + 0.1).requires_grad_()
    given = []
    handle = layer.encoder.register_forward_hook(lambda *arguments: given.append(arguments[2]))
    observation.module(candidate.flatten(0, 1))
    handle.remove()
    mu, s = given[0].unflatten(0, (3, 1)).chunk(2, -1)
    noise = (code - mu) / torch.nn.functional.softplus(s)
    objective = Objective(terms=(TotalVariation(0.1),))
    replayed = GradientMatcher(observation, observation.labels, replace(objective, codes=(code,)), seeds=range(3))
    derivative, replayed_cost = replayed.step(candidate.detach())
    sampled = GradientMatcher(observation, observation.labels, replace(objective, sample_prior=0.0), seeds=range(3))
    by_image, by_noise, cost = sampled.step_with(candidate.detach(), [noise.detach()])
    (through_noise,) = torch.autograd.grad(noise, candidate, by_noise)
    torch.testing.assert_close(by_image + through_noise, derivative, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(cost, replayed_cost, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("defense", ["precode(bottleneck_size=4)", "cvb"])
def test_how_improbable_a_code_is_of_an_image(defense):
    """Against torch's normal distribution, up to what does not depend on the image."""
    observation, x = observation_of(defense, "lenet", dtype=torch.float64)
    ((name, layer),) = observation.stochastic.items()
    code = torch.randn((3, 1, *observation.sample_shapes[0]), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = Objective(terms=(TotalVariation(0.1),), codes=(code,))
    costs = [GradientMatcher(observation, observation.labels, objective, seeds=range(3)).step(x)[1]
             for objective in (plain, replace(plain, terms=(*plain.terms, Code(0.5, name, code))))]
    entered = []
    handle = layer.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    observation.module(x.flatten(0, 1))
    handle.remove()
    law = torch.distributions.Normal(*layer.law(entered[0]))
    expected = -law.log_prob(code.flatten(0, 1)).flatten(1).mean(1) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(costs[1] - costs[0], 0.5 * expected, rtol=1e-9, atol=1e-12)


def test_the_clients_own_sample_explains_its_gradient():
    """Dropout of which the mask is read where that can be: put in as a sample, it matches up to rounding."""
    observation, x = observation_of("dropout", "lenet", dtype=torch.float64)
    (code,) = codes(observation)
    matcher = GradientMatcher(observation, observation.labels, Objective(sample_prior=0.0), seeds=range(3))
    assert (matcher.step_with(x, [(code != 0).double()])[2] < 1e-12).all()
    assert (matcher.step_with(x, [torch.ones_like(code)])[2] > 1e-4).all()


def test_adam_moves_what_is_not_an_image_as_torch_does_and_within_its_bounds():
    start = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.zeros(2, 1, 1, 2, 2, dtype=torch.float64)
    low, high = torch.tensor(-0.5).double(), torch.tensor(0.5).double()
    ours = SignedAdam(images, [start.clone()], [(low, high), (low * 1e9, high * 1e9)])
    bounded = SignedAdam(images.clone(), [start.clone()], [(low, high), (low, high)])
    theirs = start.clone().requires_grad_()
    torchs = torch.optim.Adam([theirs], lr=0.1)
    for _ in range(20):
        theirs.grad = 4 * theirs.detach() ** 3 - 1
        torchs.step()
        ours.step(torch.ones_like(images), [4 * ours.others[0] ** 3 - 1], torch.full((2,), 0.1, dtype=torch.float64))
        bounded.step(torch.ones_like(images), [torch.ones(2, 3).double()], torch.full((2,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(ours.others[0], theirs.detach(), rtol=1e-9, atol=1e-12)
    assert torch.equal(bounded.others[0], torch.full((2, 3), -0.5).double()) and torch.equal(ours.images, bounded.images)


@pytest.mark.parametrize("optimizer", [SignedAdam, LBFGS])
def test_samples_begin_as_draws_and_lower_the_objective(optimizer):
    observation, _ = observation_of("cvb", "lenet", dtype=torch.float64)
    problem = Problem(observation, observation.labels, Objective(sample_prior=1e-4), Schedule(60, 0.1, 60), 0)
    (first,) = problem.first_others([Start(victim, 0) for victim in range(3)])
    seeds = [derive(problem.sampling_seed(Start(victim, 0)), "bottleneck", 0) for victim in range(3)]
    assert torch.equal(first, VictimNoise(seeds, (1, 8, 4, 4), first).draw())
    found = minimise(problem, optimizer=optimizer).best()
    (samples,) = found.others
    assert samples.shape == first.shape and (samples != first).any()
    alone = minimise(problem._replace(objective=Objective()), optimizer=optimizer).best()
    assert found.costs.median() < alone.costs.median() / 2  # L-BFGS without a line search diverges from some starts


def test_more_victims_than_slots_have_samples_of_their_own(monkeypatch):
    """A slot that the next victim takes begins with that victim's samples."""
    observation, _ = observation_of("cvb", "lenet", victims=7, dtype=torch.float64)
    attack = JointSample(iterations=12)
    together = attack.reconstruct(observation, seed=0)
    monkeypatch.setattr("attacks.search.minimise.choose_width", lambda problem, waiting: 4)
    in_turn = attack.reconstruct(observation, seed=0)
    torch.testing.assert_close(in_turn.images, together.images, rtol=0, atol=1e-9)


def test_masks_stay_between_zero_and_one():
    observation, x = observation_of("dropout", "mlp", batch_size=2, dtype=torch.float64)
    problem = Problem(observation, observation.labels, Objective(sample_prior=1e-2), Schedule(60, 0.1, 60), 0, begin=x[:, None])
    (masks,) = minimise(problem).best().others
    assert masks.shape == (3, 2, 12) and masks.min() >= 0 and masks.max() <= 1
    assert ((masks > 0) & (masks < 1)).any()  # they begin at these


def chain() -> torch.nn.Module:
    """Of which every layer can be read backwards."""
    return torch.nn.Sequential(torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.Sigmoid(), torch.nn.Conv2d(8, 8, 3, padding=1),
                               torch.nn.Sigmoid(), torch.nn.Flatten(), torch.nn.Linear(8 * 8 * 8, 5))


def test_the_code_behind_which_layers_run_one_after_another_is_read(monkeypatch):
    """It is that of the client, seen where it enters the layer behind."""
    seen = []
    original = ConvolutionalBottleneck.sample

    def noted(layer, mu, sigma):
        code = original(layer, mu, sigma)
        seen.append(code.detach())
        return code

    monkeypatch.setattr(ConvolutionalBottleneck, "sample", noted)
    observation, _ = observation_of("cvb", chain, dtype=torch.float64)
    clients = torch.stack(seen)
    (code,) = read_code(observation, 400)
    torch.testing.assert_close(code, clients, rtol=1e-4, atol=1e-4)
    attack = JointSample(samples="read", total_variation=1e-6)
    assert attack.obstacle(observation) is None
    (replayed,) = attack.objective(observation).codes
    assert torch.equal(replayed, code) and attack.objective(observation).sample_prior is None


@pytest.mark.parametrize(("defense", "model", "options", "reason"), [
    ("cvb", chain, {"batch_size": 2}, "from the gradient of one image"), ("cvb+noise", chain, {}, "the defense alters them"),
    ("cvb+dropout", chain, {}, "no single stochastic layer"), ("dropout", chain, {"batch_size": 2}, "from the gradient of one image"),
    ("cvb", "batch-norm", {}, "the model does more than to run its layers")])
def test_where_no_code_is_read_the_attack_says_why(defense, model, options, reason):
    observation, _ = observation_of(defense, model, **options)
    assert reason in JointSample(samples="read").obstacle(observation)
    with pytest.raises(ValueError, match=reason):
        read_code(observation, 1)


@pytest.mark.parametrize(("defense", "options", "reason"), [
    ("none", {}, "no stochastic layer"), ("precode", {}, "read from the gradient"), ("dropout", {}, "read from the gradient"),
    ("cvb", {}, None), ("dropout", {"batch_size": 2}, None), ("precode", {"batch_size": 2}, None)])
def test_it_applies_where_samples_cannot_be_read(defense, options, reason):
    observation, _ = observation_of(defense, "lenet", **options)
    obstacle = attacks.create("joint-sample").obstacle(observation)
    assert obstacle is None if reason is None else reason in obstacle
    assert attacks.create("joint-sample").obstacle(observation.blind()).startswith("a blind attacker does not know")
