"""Images read from gradients without optimisation."""

from __future__ import annotations

import pytest
import torch
from attack_cases import observation_of, observation_through
from torch import nn

from attacks import Analytic
from attacks.reading.separation import separated_inputs
from benchmark.measure.metrics import compare


@pytest.mark.parametrize("defense", ["none", "precode", "dp-sgd(noise_multiplier=0)", "pruning(p=0.3)"])
def test_one_image_is_read_exactly(defense):
    observation, x = observation_of(defense, "mlp", dtype=torch.float64 if "dp" not in defense else torch.float32)
    assert Analytic().obstacle(observation) is None
    found = Analytic().reconstruct(observation, seed=0)
    torch.testing.assert_close(found.images, (x * 0.25 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_images_behind_a_relu_are_told_apart_where_units_are_active_for_one_alone(seed):
    """By hand: two of the units are active for the first image alone, three for the second, one for both."""
    generator = torch.Generator().manual_seed(seed)
    a, errors = torch.randn(2, 9, generator=generator), torch.randn(2, 6, generator=generator)
    active = torch.tensor([[1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1]])
    delta = errors * active
    found = separated_inputs((delta.T @ a)[None], delta.sum(0)[None], 2, (torch.full((9,), -4.0), torch.full((9,), 4.0)))
    torch.testing.assert_close(found[0], a[[1, 0]], rtol=1e-4, atol=1e-4)  # the larger group first


def test_fewer_rows_than_images_and_no_row_at_all():
    bounds = torch.zeros(3), torch.ones(3)
    assert separated_inputs(torch.ones(1, 1, 3), torch.ones(1, 1), 3, bounds).tolist() == [[[1, 1, 1], [0, 0, 0], [0, 0, 0]]]
    assert separated_inputs(torch.zeros(1, 2, 3), torch.zeros(1, 2), 1, bounds).tolist() == [[[0, 0, 0]]]


def test_batches_of_a_wide_relu_layer():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 512), nn.ReLU(), nn.Linear(512, 10))
    observation = observation_through(module, (3, 8, 8), victims=4, batch_size=2, classes=10)
    found = Analytic().reconstruct(observation, seed=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 3, 8, 8, generator=generator, dtype=torch.float64).clamp(0, 1)
    matches = [match for victim in range(4) for match in compare(x[victim].numpy(), found.images[victim].numpy())]
    assert min(match.ssim for match in matches) > 0.99


@pytest.mark.parametrize(("module", "reason"), [
    (nn.Sequential(nn.Flatten(), nn.Linear(192, 8, bias=False), nn.ReLU(), nn.Linear(8, 3)), "has no bias"),
    (nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3)), "does not see the pixels"),
    (nn.Sequential(nn.Sigmoid(), nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3)), "does not see the pixels"),
    (nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 3)), "is a LayerNorm"),
])
def test_where_it_does_not_apply(module, reason):
    assert reason in Analytic().obstacle(observation_through(module, (3, 8, 8)))
