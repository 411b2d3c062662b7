"""Clients that take several local steps: what leaves them is what plain SGD, written by hand, comes to."""

from __future__ import annotations

import copy

import model_cases
import pytest
import torch
from torch.nn import functional as F

import defenses
from defenses import LocalSteps, Participant
from defenses.client import ONE_GRADIENT, client_update
from defenses.private import simulated_gradient
from defenses.step import Batch

SHAPE, CLASSES = (2, 8, 8), 5


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def module_of(name="mlp"):
    torch.manual_seed(0)
    return model_cases.MODELS[name]().double()


def private_of(defense="none", local=ONE_GRADIENT, **options):
    loader = model_cases.loader() if "dp-sgd" in defense else None
    module = module_of()
    return defenses.create(defense).make_private(
        module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader, local=local, epochs=1,
        generator=torch.Generator().manual_seed(0), **options)


def test_an_update_is_where_plain_sgd_comes_to():
    local = LocalSteps(steps=5, step_size=0.2, batch_size=2)
    x, y = images(6)
    private = private_of(local=local)
    copied = copy.deepcopy(private.module)
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.2)
    batches = local.batches(x, y, torch.Generator().manual_seed(3))
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(copied(batch.images), batch.targets).backward()
        optimizer.step()
    before = {name: p.detach().clone() for name, p in private.module.named_parameters()}
    private.backward_round([Participant(0, batches)])
    for (name, p), after in zip(private.module.named_parameters(), copied.parameters(), strict=True):
        assert torch.equal(p, before[name])
        torch.testing.assert_close(p.grad, (before[name] - after) / (5 * 0.2), rtol=1e-9, atol=1e-12)


def test_one_local_step_is_the_gradient_bit_for_bit():
    x, y = images(4)
    plain, federated = private_of("noise(std=0.1)"), private_of("noise(std=0.1)", LocalSteps(1, 0.5, 4))
    plain.backward(x, y)
    federated.backward_round([Participant(0, [Batch(x, y)])])
    for a, b in zip(plain.module.parameters(), federated.module.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_round_is_the_mean_over_its_clients():
    clients = [images(3, seed) for seed in range(3)]
    private = private_of("none")
    shared = [simulated_gradient(private.in_force, private.module, x, y, seed=0) for x, y in clients]
    private.backward_round([Participant(k, [Batch(x, y)]) for k, (x, y) in enumerate(clients)])
    for name, p in private.module.named_parameters():
        torch.testing.assert_close(p.grad, sum(of[name] for of in shared) / 3, rtol=1e-12, atol=1e-15)
    assert private.round == 1


def test_each_image_comes_once_in_a_local_epoch_and_the_first_is_in_order():
    x, y = torch.arange(6.0).view(6, 1, 1, 1), torch.arange(6)
    batches = LocalSteps(7, 0.1, 2).batches(x, y, torch.Generator().manual_seed(0))
    seen = [batch.targets.tolist() for batch in batches]
    assert seen[:3] == [[0, 1], [2, 3], [4, 5]] and len(seen) == 7
    assert sorted(label for labels in seen[3:6] for label in labels) == list(range(6))
    assert LocalSteps(2, 0.1, 2).images_behind(6) == 4 and LocalSteps(5, 0.1, 2).images_behind(6) == 6
    assert LocalSteps(1, 0.1, 2).images_behind(6) == 2


@pytest.mark.parametrize(("defense", "where"), [("noise(std=0.5)", "update"), ("pruning(p=0.9)", "update"), ("soteria", "step"),
                                                ("censor(trials=2)", "step"), ("noise(std=0.5)+soteria", "both")])
def test_a_defense_acts_where_it_says(defense, where, monkeypatch):
    made = defenses.create(defense)
    calls = []
    for member in made.parts:
        original = type(member).transform_gradients

        def noted(self, gradients, step, original=original):
            calls.append((self.name, step.at))
            return original(self, gradients, step)

        monkeypatch.setattr(type(member), "transform_gradients", noted)
    x, y = images(4)
    simulated_gradient(made, module_of(), x, y, seed=0, local=LocalSteps(3, 0.1, 2))
    at = {"step": ["step"] * 3, "update": ["update"]}
    expected = [(member.name, place) for member in made.parts for place in at[member.acts]]
    assert made.acts == where and sorted(calls) == sorted(expected)


def test_a_defense_of_one_gradient_allows_no_local_steps():
    class Once(defenses.Defense):
        name, summary, paper, acts = "once", "x", "x", "gradient"

    module = module_of()
    with pytest.raises(ValueError, match="once acts on the gradient of one step alone, and clients take 2"):
        Once().make_private(module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=None, local=LocalSteps(2))


def test_each_client_keeps_its_own_state_and_it_is_saved():
    private = private_of("top-k(share=0.1)")
    rounds = [images(2, seed) for seed in range(4)]
    for client, (x, y) in zip((0, 1, 0, 2), rounds, strict=True):
        private.backward_round([Participant(client, [Batch(x, y)])])
    again = private_of("top-k(share=0.1)")
    again.load_state_dict(private.state_dict())
    assert set(again.states) == {0, 1, 2}
    for client, state in private.states.items():
        for (name, kept), (other, found) in zip(sorted(state.items()), sorted(again.states[client].items()), strict=True):
            assert name == other
            torch.testing.assert_close(found, kept, rtol=0, atol=0)


def test_the_client_with_most_steps_is_accounted_for():
    noted = []

    class Counted(defenses.Defense):
        name, summary, paper = "counted", "x", "x"

        def account(self, plan):
            return self

        delta = 1e-5

        def step(self):
            noted.append(1)

    module = module_of()
    private = Counted().make_private(module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=None,
                                     local=LocalSteps(2, 0.1, 1))
    x, y = images(2)
    batches = [Batch(x[:1], y[:1]), Batch(x[1:], y[1:])]
    private.backward_round([Participant(0, batches), Participant(1, batches)])
    assert len(noted) == 2
    private.backward_round([Participant(1, batches)])
    assert len(noted) == 4
    private.backward_round([Participant(0, batches)])
    assert len(noted) == 4


def test_a_poisson_sample_without_images_has_no_loss_but_noise():
    private = private_of("dp-sgd(noise_multiplier=1.0)", LocalSteps(3, 0.1, 2))
    private.module.train()
    x, y = images(2)
    some, nothing = Batch(x, y), Batch(x[:0], y[:0])
    loss = private.backward_round([Participant(0, [nothing, some, nothing])])
    assert 0 < loss < 100
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in private.module.parameters())
    assert private.backward_round([Participant(0, [nothing, nothing])]) == 0


def test_a_failing_step_leaves_the_weights():
    private = private_of()
    before = [p.detach().clone() for p in private.module.parameters()]
    x, y = images(4)
    wrong = [Batch(x[:2], y[:2]), Batch(x[2:, :1], y[2:])]
    with pytest.raises(RuntimeError):
        client_update(private.in_force, private.module, wrong, LocalSteps(2, 0.1, 2), 2, torch.Generator(), {}, 0)
    for p, kept in zip(private.module.parameters(), before, strict=True):
        assert torch.equal(p, kept)
