"""Attacks on updates of several local steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_cases import observation_of

import attacks
from attacks.methods.unrolled import _plan, _together
from defenses import LocalSteps


def error(observation, x, found):
    """Of each victim the mean over its images of the squared error of the nearest."""
    pixels = observation.to_pixels(x)
    return (pixels[:, :, None] - found.images[:, None]).square().mean((3, 4, 5)).amin(2).mean(1)


@pytest.mark.parametrize(("local", "images", "epochs", "batches", "in_last"), [
    (LocalSteps(3, 0.1), 4, 1, [(0, 4)] * 3, 4),
    (LocalSteps(3, 0.1, 9), 4, 1, [(0, 4)] * 3, 4),
    (LocalSteps(2, 0.1, 2), 4, 1, [(0, 2), (2, 4)], 4),
    (LocalSteps(5, 0.1, 2), 4, 3, [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)], 2),
    (LocalSteps(4, 0.1, 2), 3, 2, [(0, 2), (2, 3), (3, 5), (5, 6)], 3)])
def test_each_epoch_has_its_own_images_where_their_order_matters(local, images, epochs, batches, in_last):
    observation, _ = observation_of("none", "mlp", batch_size=images, local=local)
    plan = _plan(observation)
    assert (plan.epochs, [(batch.start, batch.stop) for batch in plan.batches], plan.in_last) == (epochs, batches, in_last)


def test_epochs_are_put_together_by_what_is_nearest_of_a_label():
    x = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 0, 1, 1], [2, 2, 0, 0]])
    orders = torch.tensor([[2, 1, 3, 0], [1, 0, 3, 2]])  # within labels
    second = torch.stack([own[order] for own, order in zip(x, orders, strict=True)]) + 0.01
    noise = torch.full_like(x[:, 2:], 9.0)
    third = torch.cat([x[:, :2] - 0.01, noise], 1)  # of which two images were used
    found = _together(torch.stack([x, second, third], 1), labels, 2)
    torch.testing.assert_close(found[:, :2], x[:, :2], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, 2:], x[:, 2:] + 0.005, rtol=0, atol=1e-5)


def test_one_image_is_found_by_either():
    observation, x = observation_of("none", "mlp", local=LocalSteps(3, 0.1))
    for text in ("unrolled(iterations=80)", "surrogate(iterations=80)"):
        found = attacks.create(text).reconstruct(observation, seed=0)
        assert (error(observation, x, found) < 0.02).all(), text  # of noise it is 0.1


def test_batches_of_several_epochs_come_closer_than_noise():
    observation, x = observation_of("none", "mlp", batch_size=2, local=LocalSteps(3, 0.05, 1))
    for text in ("unrolled(iterations=60)", "surrogate(iterations=60)"):
        found = attacks.create(text).reconstruct(observation, seed=0)
        assert (error(observation, x, found) < 0.05).all(), text  # of noise it is 0.1


def test_what_takes_gradients_says_so_and_the_baseline_does_not():
    observation, _ = observation_of("none", "mlp", local=LocalSteps(3, 0.1))
    assert "it takes them for gradients" in attacks.create("inverting-gradients").obstacle(observation)
    assert attacks.create("inverting-gradients(first_order=True)").obstacle(observation) is None
    gradient, _ = observation_of("none", "mlp")
    assert attacks.create("inverting-gradients(first_order=True)").obstacle(gradient) is None
    for name in ("unrolled", "surrogate"):
        assert attacks.create(name).obstacle(gradient) == "one gradient was shared, and no update of several local steps"
    with pytest.raises(ValueError, match="first_order must be true or false, got 1"):
        attacks.InvertingGradients(first_order=1)
    with pytest.raises(ValueError, match="alpha_step must be a number > 0, got 0"):
        attacks.Surrogate(alpha_step=0)
    with pytest.raises(ValueError, match="same_epochs must be a number >= 0, got -1"):
        attacks.Unrolled(same_epochs=-1)


def test_the_steps_of_several_clients_are_not_simulated_as_those_of_one():
    observation, _ = observation_of("secure-sum(clients=2)", "lenet", local=LocalSteps(3, 0.1, 2), batch_size=2)
    for known in (observation, replace(observation.blind(), local=LocalSteps(3, 0.1, 1))):
        assert "sum of their updates alone" in attacks.create("unrolled").obstacle(known)
    assert attacks.create("surrogate").obstacle(observation) is None


def test_the_baseline_on_a_gradient_is_the_attack_itself():
    observation, _ = observation_of("none", "mlp")
    first, plain = (attacks.create(f"inverting-gradients(iterations=5, first_order={given})").reconstruct(observation, seed=0)
                    for given in (True, False))
    assert torch.equal(first.images, plain.images)
