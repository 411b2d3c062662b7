"""The prior that epochs are of the same images."""

from __future__ import annotations

import torch

from attacks.objective.same_epochs import SameEpochs


def test_it_is_the_mean_over_pairs_with_its_derivative():
    x = torch.randn(2, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = x.clone().requires_grad_()
    means = [given[:, 2 * e : 2 * e + 2].mean(1) for e in range(3)]
    expected = sum((a - b).square().flatten(1).mean(1) for a in means for b in means) / 9 * 0.7
    value, derivative = SameEpochs(0.7, 3).add_to(torch.ones(2).double(), torch.ones_like(x), x)
    torch.testing.assert_close(value, 1 + expected.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(derivative, 1 + torch.autograd.grad(expected.sum(), given)[0], rtol=1e-10, atol=1e-14)


def test_order_within_an_epoch_does_not_matter():
    x = torch.randn(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    twice = torch.cat([x, x[:, [2, 0, 1]]], 1)
    value, derivative = SameEpochs(1.0, 2).add_to(torch.zeros(1), torch.zeros_like(twice), twice)
    assert float(value) < 1e-12 and float(derivative.abs().max()) < 1e-7
    assert float(SameEpochs(1.0, 2).add_to(torch.zeros(1), torch.zeros_like(twice), torch.cat([x, 2 * x], 1))[0]) > 0.01
