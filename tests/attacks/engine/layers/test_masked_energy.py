"""Squared norms under masks, against formed gradients in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.engine.kernels import products
from attacks.engine.layers.outer_products import cheaper_unformed, masked_energy
from attacks.engine.slots import Slots
from attacks.engine.stored import Dense


def case(slots, positions, rows, columns, seed=0):
    """Inputs and errors of the sizes that differ between entries as in a network, and masks."""
    generator = torch.Generator().manual_seed(seed)
    a, delta = (torch.randn(slots, positions, n, generator=generator, dtype=torch.float64)
                * torch.randn(slots, 1, n, generator=generator, dtype=torch.float64).exp() for n in (columns, rows))
    return a, delta, torch.rand(slots, rows, columns, generator=generator) < 0.1


def cheaper(positions, rows, columns):
    return cheaper_unformed(positions, rows, columns, masked=True)


def halves(a, delta, mask):
    return masked_energy(a, delta, Dense(mask, Slots(range(len(mask)), len(mask), reloaded=False)))


@given(slots=st.integers(1, 3), positions=st.integers(1, 5), rows=st.integers(1, 9), columns=st.integers(1, 12), seed=st.integers(0, 20))
def test_derivatives_are_those_of_the_formed_gradient(slots, positions, rows, columns, seed):
    a, delta, mask = case(slots, positions, rows, columns, seed)
    a.requires_grad_(), delta.requires_grad_()
    energy = ((delta.mT @ a) * mask).square().sum((1, 2))
    by_a, by_delta = torch.autograd.grad(energy.sum(), (a, delta))
    found_a, found_delta = halves(a.detach(), delta.detach(), mask)
    torch.testing.assert_close(2 * found_a, by_a, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(2 * found_delta, by_delta, rtol=1e-10, atol=1e-12)
    for half, by in ((found_a, a), (found_delta, delta)):
        torch.testing.assert_close((half * by).sum((1, 2)), energy, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("positions", [1, 2, 3, 8])
def test_float32_knows_the_energy_to_a_millionth(positions, compiled, monkeypatch):
    """Where one minus the cosine of a good candidate is 1e-5."""
    if not compiled:
        monkeypatch.setattr(products, "applies", lambda *tensors: False)
    a, delta, mask = case(2, positions, 1024, 3072)
    a, delta = a.float(), delta.float()
    expected = ((delta.double().mT @ a.double()) * mask).square().sum((1, 2))
    energy = (halves(a, delta, mask)[0] * a).sum((1, 2))
    torch.testing.assert_close(energy.double(), expected, rtol=1e-6, atol=0)


def test_few_positions_of_large_layers_are_not_formed():
    assert cheaper(1, 1024, 3072) and cheaper(16, 1024, 3072) and not cheaper(17, 1024, 3072)
    assert cheaper(8, 256, 256) and not cheaper(2, 64, 192) and not cheaper(1, 10, 768)
