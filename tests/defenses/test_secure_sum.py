"""Sums over clients: by hand, in distribution, and what a server can conclude."""

from __future__ import annotations

import math

import model_cases
import pytest
import torch
from opacus.accountants import PRVAccountant

import defenses
from defenses import Batch, Clipped, Facts, LocalSteps, Near, Noise, Participant, Plan, Unknown
from defenses.private import simulated_gradient
from defenses.support.even_batches import EvenBatches


def module_of(name="mlp"):
    torch.manual_seed(0)
    return model_cases.MODELS[name]().double()


def images(count, seed=0):
    x, y = model_cases.batch(count, seed)
    return x.double(), y


def private_of(defense, loader=None, **options):
    module = module_of()
    made = defenses.create(defense) if isinstance(defense, str) else defense
    private = made.make_private(module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader,
                                generator=torch.Generator().manual_seed(0), **options)
    private.module.train()
    return private


def grads(private):
    return {name: p.grad for name, p in private.module.named_parameters()}


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


@pytest.mark.parametrize("beside", ["", "pruning(p=0.7)+", "clipping(norm=0.1)+", "sign+"])
def test_it_is_the_mean_of_what_each_client_shares(beside):
    x, y = images(12)
    private = private_of(f"{beside}secure-sum(clients=4)")
    alone = defenses.create(beside.removesuffix("+") or "none")
    own = [simulated_gradient(alone, private.module, x[3 * k : 3 * k + 3], y[3 * k : 3 * k + 3], seed=1) for k in range(4)]
    private.backward(x, y)
    observed = private.shared_gradient(x, y, seed=1)
    for name, g in grads(private).items():
        torch.testing.assert_close(g, sum(of[name] for of in own) / 4, rtol=1e-12, atol=1e-15)
        assert torch.equal(g, observed[name])


def test_the_order_of_a_composition_does_not_matter():
    x, y = images(8)
    found = [private_of(s).shared_gradient(x, y, seed=3) for s in (
        "noise(std=0.1)+secure-sum(clients=4)", "secure-sum(clients=4)+noise(std=0.1)")]
    assert torch.equal(*map(flat, found))
    told = [defenses.create(s).release(found[0], Facts(8, 0, module_of(), (2, 8, 8)))["1.weight"].stages for s in (
        "noise(std=0.1)+secure-sum(clients=4)", "secure-sum(clients=4)+noise(std=0.1)")]
    assert told[0] == told[1] == (Noise(told[0][0].variance),) and math.isclose(told[0][0].variance, 0.1**2 / 4**2)


@pytest.mark.parametrize("noise", ["noise(std=0.5)", "noise(std=0.5, distribution='laplacian')", "ppp(strength=0.5)"])
def test_shares_of_noise_add_up_to_that_of_one(noise):
    """Of the mean over 9 clients the standard deviation is a ninth of that of the noise of one."""
    x, y = images(9)
    private = private_of(f"{noise}+secure-sum(clients=9)")
    quiet = private_of(noise.replace("0.5", "0") + "+secure-sum(clients=9)")
    first = "1.weight"  # before the bottleneck
    draws = torch.stack([private.shared_gradient(x, y, seed=s)[first] - quiet.shared_gradient(x, y, seed=s)[first]
                         for s in range(20)]) if "ppp" not in noise else None
    if draws is None:  # sampled codes differ with the draws: the share itself
        assert math.isclose(private.in_force.shared_among(9).members[0].strength, 0.5 / 3)
        return
    told, = private.in_force.release({first: None}, Facts(9, 0, private.module, (2, 8, 8)))[first].stages
    assert math.isclose(told.variance, (0.5 / 9) ** 2)
    assert draws.std().item() == pytest.approx(0.5 / 9, rel=0.02)  # of 30,720 draws: 0.4 % a standard deviation


def test_dp_sgd_under_a_sum_is_dp_sgd_over_all_images():
    """Clipped gradients without noise are equal, the noise has the same variance, and the release is that of all images."""
    x, y = images(12)
    clean = "dp-sgd(noise_multiplier=0, max_grad_norm=0.1)"
    summed, whole = (private_of(s, model_cases.loader(48, 12)).shared_gradient(x, y, seed=0)
                     for s in (f"{clean}+secure-sum(clients=4)", clean))
    torch.testing.assert_close(flat(summed), flat(whole), rtol=1e-9, atol=1e-12)
    private = private_of("dp-sgd(noise_multiplier=2, max_grad_norm=0.1)+secure-sum(clients=4)", model_cases.loader(48, 12))
    noise = torch.cat([flat(private.shared_gradient(x, y, seed=seed)) - flat(whole) for seed in range(10)])
    assert noise.std().item() == pytest.approx(2 * 0.1 / 12, rel=0.03)
    facts = Facts(12, 0, private.module, (2, 8, 8))
    names = dict.fromkeys(dict(private.module.named_parameters()))
    clip, of_noise = private.in_force.release(names, facts)["1.bias"].stages
    expected_clip, expected_noise = defenses.create("dp-sgd(noise_multiplier=2, max_grad_norm=0.1)").release(names, facts)["1.bias"].stages
    assert clip == expected_clip and math.isclose(of_noise.variance, expected_noise.variance)


def test_dp_sgd_trains_on_poisson_samples_of_all_clients_and_epsilon_is_opacus():
    private = private_of("dp-sgd(noise_multiplier=1.5)+secure-sum(clients=4)", model_cases.loader(48, 12), epochs=1)
    assert private._batch_size == 3
    for x, y in private.data_loader:
        private.backward(x.double(), y)
    accountant = PRVAccountant()
    for _ in range(4):
        accountant.step(noise_multiplier=1.5, sample_rate=0.25)
    assert private.privacy_spent() == accountant.get_epsilon(delta=1e-5)


def test_dp_sgd_in_several_local_steps_adds_all_noise_at_each_client():
    defense = defenses.create("dp-sgd(noise_multiplier=2)+secure-sum(clients=4)")
    assert [defense.shared_among(4, steps).members[0].noise_multiplier for steps in (1, 5)] == [1, 2]


def test_each_client_keeps_its_own_state():
    x, y = images(4)
    private = private_of("top-k(share=0.1)+secure-sum(clients=2)")
    private.backward(x, y)
    alone = private_of("top-k(share=0.1)")
    alone.backward(x[2:], y[2:])
    for a, b in zip(private.states[1]["top-k"]["memory"].values(), alone.states[0]["memory"].values(), strict=True):
        assert torch.equal(a, b)
    later = private.shared_gradient(x, y, seed=0)
    own = [simulated_gradient(defenses.create("top-k(share=0.1)"), private.module, x[some], y[some], seed=0, round_=1,
                              states={0: private.states[k]["top-k"]}) for k, some in enumerate((slice(2), slice(2, 4)))]
    torch.testing.assert_close(flat(later), (flat(own[0]) + flat(own[1])) / 2, rtol=1e-12, atol=1e-15)


def test_a_round_of_more_clients_is_a_mean_with_at_least_as_much_noise():
    x, y = images(6)
    private = private_of("noise(std=0.6)+secure-sum(clients=3)")
    clean = private_of("none").shared_gradient(x, y)
    found = []
    for _ in range(20):
        private.backward_round([Participant(k, [Batch(x[k : k + 1], y[k : k + 1])]) for k in range(6)])
        found.append(flat(grads(private)) - flat(clean))
    assert torch.cat(found).std().item() == pytest.approx(0.6 / math.sqrt(3 * 6), rel=0.02)  # two sums of 3, of 0.6 / 3 each


def test_what_does_not_pass_through_a_sum_is_said():
    names = dict.fromkeys(dict(module_of().named_parameters()))
    facts = Facts(8, 0, module_of(), (2, 8, 8))

    def stages(defense):
        return defenses.create(f"{defense}+secure-sum(clients=4)").release(names, facts)["1.weight"].stages

    assert stages("pruning(p=0.5)") == (Near(),) and stages("sign") == (Near(scale_is_lost=True),)
    assert stages("clipping(norm=2)") == (Clipped(2, tuple(names), 4),) and stages("none") == ()
    assert isinstance(stages("optimal-noise")[0], Unknown)


def test_losses_are_means_over_clients_with_images():
    private = private_of("dp-sgd+secure-sum(clients=2)", model_cases.loader(24, 6))
    x, y = images(1)
    loss = private.backward(x, y)
    assert torch.isclose(loss, torch.nn.functional.cross_entropy(private.module(x), y))
    assert private.backward(x[:0], y[:0]) == 0


@pytest.mark.parametrize(("images_", "size", "clients", "sizes"), [(32, 8, 16, [16, 16]), (70, 32, 3, [30, 33, 6]), (10, 4, 16, []), (12, 4, 4, [4, 4, 4])])
def test_batches_are_joined_and_cut_so_that_all_have_as_many(images_, size, clients, sizes):
    dataset = torch.utils.data.TensorDataset(torch.arange(images_).view(-1, 1, 1, 1), torch.arange(images_))
    even = EvenBatches(torch.utils.data.DataLoader(dataset, batch_size=size), clients)
    found = [y for _, y in even]
    assert [len(y) for y in found] == sizes and len(even) == len(sizes)
    assert torch.cat([*found, torch.arange(0)]).tolist() == list(range(sum(sizes)))


class Planned:
    """A loader of rounds that says so."""

    def __init__(self, participants, clients):
        self._plan = Plan(4, 8, 1, participants, clients, 5)

    def plan(self, epochs):
        return self._plan._replace(epochs=epochs)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: defenses.SecureSum(1), "a secure sum of one client hides nothing: clients must be >= 2, got 1"),
    (lambda: defenses.SecureSum(0), "clients must be a whole number >= 1"),
    (lambda: private_of("secure-sum(clients=4)", Planned(4, 3)), "sums over 4 clients, and there are 3"),
    (lambda: private_of("secure-sum(clients=4)", Planned(2, 8)), "sums over 4 clients, and a round has 2"),
    (lambda: private_of("secure-sum(clients=4)").backward(*images(6)), "as many images of each, so of a multiple of 4, got 6"),
    (lambda: private_of("secure-sum(clients=4)").shared_gradient(*images(1)), "so of a multiple of 4, got 1"),
    (lambda: private_of("secure-sum(clients=2)").backward_round([Participant(0, [Batch(*images(1))])]), "2 clients, and a round has 1"),
    (lambda: defenses.create("mixup+secure-sum"), "no attack is known on a sum over clients that each mix their images"),
])
def test_bad_input_is_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_local_steps_under_a_sum():
    """The mean of the clients' updates, by hand."""
    local = LocalSteps(2, 0.1, 1)
    x, y = images(4)
    private = private_of("secure-sum(clients=2)", local=local)
    own = [simulated_gradient(defenses.create("none"), private.module, x[some], y[some], seed=0, local=local)
           for some in (slice(2), slice(2, 4))]
    torch.testing.assert_close(flat(private.shared_gradient(x, y, seed=0)), (flat(own[0]) + flat(own[1])) / 2, rtol=1e-12, atol=1e-15)
