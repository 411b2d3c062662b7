"""A replayed step gives what the step as it is gives, bit for bit, or is not used."""

from __future__ import annotations

import logging

import pytest
import torch
from attack_cases import observation_of
from torch.fx.experimental.proxy_tensor import make_fx

import attacks
from attacks.engine import replayed as replayed_module
from attacks.engine.matcher import GradientMatcher
from attacks.engine.replayed import replayed_or_plain, worth_replaying
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("model", ["lenet", "mlp", "batch-norm"])
@pytest.mark.parametrize("defense", ["none", "noise", "pruning", "precode", "cvb", "dropout"])
def test_the_same_bit_for_bit_also_for_a_victim_that_is_loaded(defense, model, slots):
    observation, _ = observation_of(defense, model, victims=3)
    objective = with_knowledge(Objective(terms=(TotalVariation(1e-3),)), observation)
    matcher = GradientMatcher(observation, observation.labels, objective, seeds=range(slots), positions=range(slots), reloaded=True)
    step, generator = matcher.step_of_slots, torch.Generator().manual_seed(0)
    images = torch.randn(slots, 1, 2, 8, 8, generator=generator)
    noise = [torch.randn(n.shape, generator=generator) for n in matcher.samples_like(images)]
    replayed = replayed_or_plain(step, images, noise)
    assert replayed is not step
    for position in (0, 2):
        matcher.load(0, position, seed=4)
        others = torch.randn(images.shape, generator=generator), [torch.randn(n.shape, generator=generator) for n in noise]
        expected, found = step(*others), replayed(*others)
        assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(("model", "victims"), [("lenet", 1), ("lenet", 3), ("mlp", 1)])
@pytest.mark.parametrize("attack", ["inverting-gradients", "feature-matching"])
def test_an_attack_is_the_same_bit_for_bit(monkeypatch, caplog, attack, model, victims):
    observation, _ = observation_of("precode", model, victims=victims)
    attack = attacks.create(f"{attack}(iterations=60)")
    plain = attack.reconstruct(observation, seed=0)
    monkeypatch.setattr(replayed_module, "_ITERATIONS_WORTH_TRACING", 60)
    with caplog.at_level(logging.INFO, "leakboard"):
        found = attack.reconstruct(observation, seed=0)
    assert "was traced in" in caplog.text and torch.equal(found.images, plain.images) and torch.equal(found.cost, plain.cost)


def test_what_is_written_into_is_computed_anew():
    """Equal operations are done once, unless the memory of one is written into, also through a view."""
    def step(images, noise):
        first, second, third, fourth = images * 2, images * 2, images * 3, images * 3
        second.view(-1).add_(1)
        before = third + fourth
        third[0] = 7
        return first + second + before + (third + fourth), images.flatten(1).sum(1)

    images = torch.randn(2, 3)
    replayed = replayed_or_plain(step, images, [])
    assert replayed is not step
    other = torch.randn(2, 3)
    assert all(torch.equal(a, b) for a, b in zip(step(other, []), replayed(other, []), strict=True))


def test_what_does_nothing_and_what_was_done_before_is_left_out():
    graph = make_fx(lambda x: x.view(2, 3) + (x * 2) + (x.detach() * 2))(torch.randn(2, 3))
    replayed_module._simplify(graph)
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [torch.mul, torch.add, torch.add]


@pytest.mark.parametrize(("step", "said"), [
    (lambda images, noise: (images * (2 if images.sum() > 0 else 3), images.sum(1)), "not replayed"),
    (lambda images, noise: (images + torch.rand_like(images), images.sum(1)), "differs from that of the step")])
def test_a_step_that_depends_on_values_or_chance_stays_as_it_is(caplog, step, said):
    with caplog.at_level(logging.INFO, "leakboard"):
        assert replayed_or_plain(step, torch.ones(2, 3), []) is step
    assert said in caplog.text


def test_when_it_is_worth_it():
    cpu = torch.device("cpu")
    assert worth_replaying(cpu, 1, 3000) and worth_replaying(cpu, 4, 3000)
    assert not worth_replaying(cpu, 1, 300) and not worth_replaying(cpu, 128, 3000) and not worth_replaying(torch.device("cuda"), 1, 3000)
