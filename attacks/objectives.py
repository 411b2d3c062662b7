"""Objectives of gradient matching."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine_from(product: Tensor, squared_candidate: Tensor, squared_observed: Tensor) -> Tensor:
    """1 - <a, b> / (|a| |b|) from the inner product and the squared norms; 1 where either gradient is zero."""
    return 1 - product / (_root(squared_candidate) * _root(squared_observed))


def cosine_cost(candidate: dict[str, Tensor], observed: dict[str, Tensor]) -> Tensor:
    """1 - cosine similarity of two gradients, over all parameters together (Geiping et al., 2020, eq. 4)."""
    product = torch.stack([(candidate[name] * g).sum() for name, g in observed.items()]).sum()
    return cosine_from(product, _squared(candidate), _squared(observed))


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours in both directions (anisotropic; Rudin et al., 1992): [N, ..., H, W] to [N]."""
    vertical, horizontal = x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]
    return vertical.abs().flatten(1).mean(1) + horizontal.abs().flatten(1).mean(1)


def _squared(gradient: dict[str, Tensor]) -> Tensor:
    return torch.stack([g.square().sum() for g in gradient.values()]).sum()


def _root(squared: Tensor) -> Tensor:
    # Bounded away from zero, where the root has no derivative; each norm has its own root, as their product can underflow.
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
