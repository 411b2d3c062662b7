"""Whole batches, exactly, from the gradient of a linear layer before a ReLU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_cases import observation_of, observation_through
from torch import nn

from attacks import Analytic, Spear


class WithFunctions(nn.Module):
    """Whose ReLU is not a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(128, 160), nn.Linear(160, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x.flatten(1))))


def mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 160), activation(), nn.Linear(160, 40), nn.ReLU(), nn.Linear(40, 5))


def places_of(found: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Of each image [N, B, ...] the place of the one found that is nearest, [N, B]."""
    return torch.cdist(x.flatten(2), found.flatten(2)).argmin(2)


def pixels_of(x: torch.Tensor) -> torch.Tensor:
    return (x * 0.25 + 0.5).clamp(0, 1)


def exact(found: torch.Tensor, x: torch.Tensor) -> bool:
    places = places_of(found, pixels_of(x))
    ordered = torch.stack([images[place] for images, place in zip(found, places, strict=True)])
    return bool((ordered - pixels_of(x)).abs().amax() < 1e-4)


@pytest.mark.parametrize("model", [mlp, WithFunctions])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_are_read_exactly_and_images_keep_their_labels(model, batch_size):
    """By a blind attacker who is not told the labels either."""
    observation, x = observation_of("none", model, batch_size=batch_size)
    found = Spear().reconstruct(replace(observation.blind(), labels=None), seed=0)
    assert exact(found.images, x)
    assert torch.equal(found.labels.gather(1, places_of(found.images, pixels_of(x))), observation.labels)
    assert found.cost.amax() < 0.01


def test_it_reads_what_units_active_for_one_image_alone_do_not_tell():
    observation, x = observation_of("none", mlp, batch_size=7)
    assert not exact(Analytic().reconstruct(observation, seed=0).images, x)
    assert exact(Spear().reconstruct(observation, seed=0).images, x)


@pytest.mark.parametrize("defense", ["precode", "dp-sgd(noise_multiplier=0)", "mixup"])
def test_defenses_that_leave_what_it_reads(defense):
    """What the first layer's gradient tells does not depend on what follows; clipping leaves each image's part but for a factor."""
    observation, x = observation_of(defense, mlp, batch_size=3)
    assert Spear().obstacle(observation) is None
    found = Spear().reconstruct(observation, seed=0)
    assert exact(found.images, x) and found.cost.amax() < 0.01


@pytest.mark.parametrize("defense", ["noise(std=0.01)", "pruning(p=0.5)", "sign", "quantisation"])
def test_an_informed_attacker_leaves_altered_gradients_alone_and_a_blind_one_finds_nothing_right(defense):
    observation, _ = observation_of(defense, mlp, batch_size=3)
    assert Spear().obstacle(observation) == "batches are read from gradients as they were computed, and the defense alters them"
    blind = Spear(samples=4096).reconstruct(observation.blind(), seed=0)
    assert torch.isfinite(blind.images).all() and blind.cost.amin() > 0.05


@pytest.mark.parametrize(("module", "options", "reason"), [
    (mlp(nn.Sigmoid), {}, "the first layer is not followed by a ReLU"),
    (mlp(nn.GELU), {}, "the first layer is not followed by a ReLU"),
    (mlp(lambda: nn.LeakyReLU(0.01)), {}, "the first layer is not followed by a ReLU"),
    (nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5)), {}, "the first layer is a convolution"),
    (nn.Sequential(nn.Flatten(), nn.Linear(128, 3), nn.ReLU(), nn.Linear(3, 5)), {}, "the first layer has fewer units than the 4 images"),
    (mlp(), {"samples": 7}, "of 4 images one is told by about 2^3 samples, more than 7"),
])
def test_where_it_does_not_apply(module, options, reason):
    observation = observation_through(module, (2, 8, 8), batch_size=4, classes=5)
    assert Spear(**options).obstacle(observation).startswith(reason)


def test_samples_are_a_whole_number():
    with pytest.raises(ValueError, match="samples must be"):
        Spear(samples=0)
