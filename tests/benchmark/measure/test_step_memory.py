"""The memory of a training step, against counts by hand."""

from __future__ import annotations

import pytest
import torch
from model_cases import loader, private_of, small_lenet
from torch import nn

import defenses
from benchmark.measure.step_memory import StepMemory


def test_by_hand():
    module = nn.Linear(10, 20, bias=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with StepMemory(module, optimizer) as meter:
        a = torch.zeros(1000)  # 4,000 bytes beside the weights' 800
        b = a[:10] + 1         # 40
        del a, b
        torch.zeros(100)       # after the others are gone
    assert meter.peak == 800 + 4000 + 40
    with meter:
        torch.zeros(2000)
    assert meter.peak == 800 + 8000


@pytest.mark.parametrize("specification", defenses.registry.names())
def test_every_defense_can_be_measured_and_trains_the_same(specification):
    peaks, weights = [], []
    for measured in (True, False):
        torch.manual_seed(0)
        module = small_lenet()
        private = private_of(
            specification, module, optimizer=torch.optim.Adam(module.parameters()), data_loader=loader(), epochs=1)
        meter = StepMemory(private.module, private.optimizer)
        for x, y in private.data_loader:
            if measured:
                with meter:
                    private.backward(x, y)
                    private.optimizer.step()
            else:
                private.backward(x, y)
                private.optimizer.step()
        peaks.append(meter.peak)
        weights.append([p.detach().clone() for p in private.module.parameters()])
        # Weights, their gradients and the two moments of Adam.
        assert not measured or meter.peak >= 4 * sum(p.numel() * 4 for p in private.module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True)) and peaks[1] == 0
