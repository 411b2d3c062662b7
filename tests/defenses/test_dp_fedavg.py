"""DP-FedAvg: by hand, and its budgets against Opacus and a closed form."""

from __future__ import annotations

import math

import model_cases
import pytest
import torch
from opacus.accountants import PRVAccountant
from scipy import optimize, stats

import defenses
from defenses import Batch, Clipped, Facts, LocalSteps, Noise, Participant, Plan
from defenses.private import simulated_gradient


class Planned:
    """A loader that says what is planned, of which no batches are asked for."""

    def __init__(self, **plan):
        self._plan = Plan(**plan)

    def plan(self, epochs):
        return self._plan._replace(epochs=epochs)


def private_of(defense, loader=None, **options):
    torch.manual_seed(0)
    module = model_cases.MODELS["mlp"]().double()
    return defenses.create(defense).make_private(module=module, optimizer=torch.optim.SGD(module.parameters(), lr=0.1), data_loader=loader,
                                                 generator=torch.Generator().manual_seed(0), **options)


def images(count, seed=0):
    x, y = model_cases.batch(count, seed)
    return x.double(), y


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


@pytest.mark.parametrize("norm", [0.05, 100.0])
@pytest.mark.parametrize("local", [LocalSteps(), LocalSteps(3, 0.2, 2)])
def test_the_whole_of_what_a_client_shares_is_clipped(norm, local):
    x, y = images(6)
    private = private_of(f"dp-fedavg(noise_multiplier=0, max_norm={norm})", local=local)
    clean = flat(simulated_gradient(defenses.create("none"), private.module, x, y, seed=0, local=local))
    torch.testing.assert_close(flat(private.shared_gradient(x, y, seed=0)), clean * min(1, norm / clean.norm()), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("defense", "std"), [("dp-fedavg(noise_multiplier=2, max_norm=0.1)", 0.2),
                                              ("dp-fedavg(noise_multiplier=2, max_norm=0.1)+secure-sum(clients=4)", 0.2 / 4)])
def test_a_sum_has_the_noise_of_one_client_that_is_alone(defense, std):
    x, y = images(8)
    private, quiet = private_of(defense), private_of(defense.replace("multiplier=2", "multiplier=0"))
    noise = torch.cat([flat(private.shared_gradient(x, y, seed=seed)) - flat(quiet.shared_gradient(x, y, seed=0)) for seed in range(20)])
    assert noise.std().item() == pytest.approx(std, rel=0.02)
    names = dict.fromkeys(dict(private.module.named_parameters()))
    clip, told = private.in_force.release(names, Facts(8, 0, private.module, (2, 8, 8)))["1.weight"].stages
    assert clip == Clipped(0.1, tuple(names), 4 if "sum" in defense else 1)
    assert isinstance(told, Noise) and math.isclose(told.variance, std**2)


def test_under_a_sum_rounds_are_accounted_for_at_the_rate_of_participants_to_clients():
    loader = Planned(steps_per_epoch=3, images=6, participants=4, clients=20, rounds_per_epoch=15)
    private = private_of("dp-fedavg(noise_multiplier=1.2)+secure-sum(clients=4)", loader)
    x, y = images(4)
    participants = [Participant(k, [Batch(x[k : k + 1], y[k : k + 1])] * 3) for k in range(4)]
    accountant = PRVAccountant()
    for _ in range(3):
        private.backward_round(participants)
        accountant.step(noise_multiplier=1.2, sample_rate=4 / 20)
    assert private.privacy_spent() == accountant.get_epsilon(delta=1e-5)


def gaussian_epsilon(multiplier, times, delta):
    """Of so many Gaussian mechanisms of sensitivity 1 (Balle and Wang, ICML 2018, theorem 8; they compose to one)."""
    mu = math.sqrt(times) / multiplier
    return optimize.brentq(lambda e: stats.norm.cdf(mu / 2 - e / mu) - math.exp(e) * stats.norm.cdf(-mu / 2 - e / mu) - delta, 0, 60)


def test_alone_the_client_that_took_part_most_is_accounted_for_without_sampling():
    loader = Planned(steps_per_epoch=3, images=6, participants=2, clients=20, rounds_per_epoch=30)
    private = private_of("dp-fedavg(noise_multiplier=3)", loader, local=LocalSteps(3, 0.1, 1))
    x, y = images(3)
    batches = [Batch(x[k : k + 1], y[k : k + 1]) for k in range(3)]
    for clients in ((0, 1), (1, 2), (3, 1)):  # client 1 in each
        private.backward_round([Participant(client, batches) for client in clients])
    # The accountant's figure is an upper bound with an error of at most 0.01.
    assert 0 <= private.privacy_spent() - gaussian_epsilon(3, 3, 1e-5) < 0.02


def test_a_target_is_spent_by_the_planned_training_and_no_more():
    loader = Planned(steps_per_epoch=1, images=6, participants=4, clients=20, rounds_per_epoch=5)
    private = private_of("dp-fedavg(target_epsilon=4, accountant='rdp')+secure-sum(clients=4)", loader, epochs=2)
    x, y = images(4)
    for _ in range(10):
        private.backward_round([Participant(k, [Batch(x[k : k + 1], y[k : k + 1])]) for k in range(4)])
    assert 3.9 < private.privacy_spent() <= 4
    alone = private_of("dp-fedavg(target_epsilon=4, accountant='rdp')", loader, epochs=2)
    for number in range(2):  # each of 20 clients twice in 10 rounds of 4
        for _ in range(2):
            alone.backward(x[number : number + 1], y[number : number + 1])
    assert alone.in_force.noise_multiplier > 0 and alone.privacy_spent() > 4  # client 0 in four rounds, twice the mean
    assert gaussian_epsilon(alone.in_force.noise_multiplier, 2, 1e-5) <= 4


@pytest.mark.parametrize(("make", "message"), [
    (lambda: defenses.DPFedAvg(noise_multiplier=1, target_epsilon=1), "give either noise_multiplier or target_epsilon, not both"),
    (lambda: defenses.DPFedAvg(max_norm=0), "max_norm must be a number > 0"),
    (lambda: defenses.DPFedAvg(delta=1), "delta must be a number > 0 and < 1"),
    (lambda: defenses.DPFedAvg(accountant="gdp"), "accountant must be one of prv, rdp"),
    (lambda: defenses.create("dp-fedavg+dp-sgd"), "only one of the defenses may replace the training"),
    (lambda: private_of("dp-fedavg(target_epsilon=1)", model_cases.loader()), "dp-fedavg with target_epsilon needs the planned number of epochs"),
])
def test_bad_input_is_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_a_plan_nothing_is_said_of_the_noise():
    names = dict.fromkeys(["weight"])
    assert defenses.DPFedAvg(target_epsilon=1).release(names, Facts(1, 0, torch.nn.Linear(1, 1), (1, 1, 1)))["weight"].form is None
