"""How likely noise is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from defenses.stages import Bounds, Noise


def log_density(noise: Noise, clean: Tensor, found: Bounds) -> Tensor:
    """Of each entry, the logarithm of the density of the noise where the sum is known, and of its mass where that lies within an
    interval; the arguments are broadcast.

    Args:
        noise: what was added.
        clean: to what.
        found: what is known of the sum.
    """
    gaussian = noise.distribution == "gaussian"
    scale = math.sqrt(noise.variance / (1 if gaussian else 2))
    low, known = (found.low - clean) / scale, found.low == found.high
    density = (-0.5 * low.square() if gaussian else -low.abs()) - math.log(scale * (math.sqrt(2 * math.pi) if gaussian else 2))
    if bool(known.all()):
        return density
    high = (found.high - clean) / scale
    # Of an interval above the mean the mass is that of its mirror image, where the distribution function keeps its digits.
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    mass = _cdf(high, gaussian) - _cdf(low, gaussian)
    return torch.where(known, density, mass.clamp_min(torch.finfo(clean.dtype).tiny).log())


def _cdf(t: Tensor, gaussian: bool) -> Tensor:
    if gaussian:
        return 0.5 * torch.erfc(-t / math.sqrt(2))
    return torch.where(t < 0, 0.5 * t.clamp_max(0).exp(), 1 - 0.5 * (-t.clamp_min(0)).exp())
