"""The divergence of Gaussian codes."""

from __future__ import annotations

from torch import Tensor


def to_standard_normal(mu: Tensor, sigma: Tensor) -> Tensor:
    """Of each entry the Kullback-Leibler divergence of N(mu, sigma^2) to N(0, 1), in nats."""
    return 0.5 * (mu.square() + sigma.square() - 1) - sigma.log()
