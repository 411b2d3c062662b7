"""Candidates for updates of several local steps."""

from __future__ import annotations

import math

import pytest
import torch
from attack_cases import observation_of
from identification_cases import case_of

from attacks.engine.per_update import PerUpdate
from attacks.identification import Identifier, presence_mu
from attacks.identification.identifier import _clip_of_steps
from defenses import Clipped, LocalSteps, Noise, Unknown
from defenses.private import simulated_gradient

FAR = LocalSteps(4, 0.5)


@pytest.mark.parametrize("defense", ["none", "dp-sgd(noise_multiplier=0, max_grad_norm=0.3)"])
def test_simulated_updates_are_what_clients_share(defense):
    observation, x = observation_of(defense, "lenet", local=FAR, dtype=torch.float64)
    found = PerUpdate(observation, _clip_of_steps(observation))(x[:, 0], observation.labels[:, 0])
    observation.module.train()
    for k in range(3):
        own = simulated_gradient(observation.defense, observation.module, x[k], observation.labels[k], seed=0, local=FAR)
        for name, rows in found.items():
            torch.testing.assert_close(rows.entries(None)[k].view_as(own[name]), own[name], rtol=1e-5, atol=1e-8)  # Opacus clips by a norm + 1e-6


@pytest.mark.parametrize(("defense", "method", "exact"), [
    ("none", "exact", True), ("noise(std=0.001)", "likelihood", True), ("pruning(p=0.5)", "exact", True),
    ("dp-sgd(noise_multiplier=0.001)", "likelihood", False), ("noise(std=0.001)+pruning(p=0.5)", "likelihood", True),
    ("soteria", "simulated", False), ("precode", "simulated", False)])
def test_one_image_is_found_by_its_own_update(defense, method, exact):
    case = case_of(defense, "lenet", victims=3, size=5, local=LocalSteps(3, 0.5))
    assert Identifier().method(case.observation) == (method, exact)
    ranks = case.ranks(Identifier().scores(case.observation, case.candidates, seed=0))
    assert int(ranks.sum()) == 0 or (defense == "precode" and int(ranks.sum()) < 6)  # by chance 6


def test_a_blind_attacker_simulates_too():
    case = case_of("noise(std=0.0001)", "lenet", victims=6, size=10, local=LocalSteps(6, 2.0))
    scores = Identifier().scores(case.observation.blind(), case.candidates, seed=0)
    assert Identifier().method(case.observation.blind()).name == "cosine"
    assert (scores.gather(1, case.true[:, None]) < -0.999).all()


@pytest.mark.parametrize("step_images", [None, 2])
def test_images_among_others_are_found_to_first_order(step_images):
    case = case_of("none", "mlp", victims=8, size=10, batch_size=4, local=LocalSteps(4, 0.02, step_images))
    assert Identifier().method(case.observation) == ("whitened", False)
    ranks = case.ranks(Identifier().scores(case.observation, case.candidates, seed=0))
    assert ranks.double().mean() < 1.5  # by chance 4.5


@pytest.mark.parametrize(("defense", "acting"), [("soteria", "soteria"), ("noise(std=0.1)+censor(trials=2)", "censor"), ("ats", "ats"),
                                                 ("mixup", "mixup")])
def test_what_acted_in_steps_is_not_told_by_the_update(defense, acting):
    observation, _ = observation_of(defense, "lenet", batch_size=2, local=FAR)
    for release in observation.releases().values():
        (stage,) = release.stages
        assert isinstance(stage, Unknown) and stage.reason.startswith(f"{acting} acted in each of 4 local steps")
    assert observation.choices == () and observation.mixing is None


@pytest.mark.parametrize(("local", "images", "of_step"), [(LocalSteps(4, 0.1), 3, 3), (LocalSteps(4, 0.1, 2), 6, 2)])
def test_the_noise_of_dp_sgd_is_a_mean_over_steps(local, images, of_step):
    """With images that say nothing of a dead layer, noise is all there is."""
    observation, _ = observation_of("dp-sgd(noise_multiplier=2.0, max_grad_norm=0.5)", "mlp", batch_size=images, local=local, victims=8)
    stages = {release.stages for release in observation.releases().values()}
    assert stages == {(Clipped(0.5, tuple(observation.shared), images, 4), Noise((2.0 * 0.5 / of_step) ** 2 / 4))}
    entries = torch.cat([g.flatten() for g in observation.shared.values()])  # the clean ones have a norm of 0.5 among 1,500
    assert float(entries.var()) == pytest.approx((2.0 * 0.5 / of_step) ** 2 / 4, rel=0.05)


@pytest.mark.parametrize(("local", "images", "taken"), [(LocalSteps(4, 0.1), 3, 4), (LocalSteps(4, 0.1, 2), 6, 2),
                                                        (LocalSteps(5, 0.1, 3), 6, 3), (LocalSteps(4, 0.1), 1, 4)])
def test_a_guarantee_composes_over_the_steps_that_an_image_is_in(local, images, taken):
    observation, _ = observation_of("dp-sgd(noise_multiplier=2.0)", "mlp", batch_size=images, local=local)
    assert presence_mu(observation) == pytest.approx(math.sqrt(taken) / 2.0)
