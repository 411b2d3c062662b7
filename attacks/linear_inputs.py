"""What entered a linear layer, read from its gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_inputs(weight: Tensor, bias: Tensor, *, std: float = 0.0) -> Tensor:
    """The inputs [N, I] of linear layers that saw one image each, from the gradients [N, O, I] of their weight and [N, O] of bias.

    For one image the gradients are W = delta a^T and b = delta, so each row tells the input: a = W_i / b_i (Phong et al., 2018;
    Geiping et al., 2020, proposition 3.1). All rows are combined by least squares, a_j = sum_i b_i W_ij / sum_i b_i^2, which for a
    gradient without noise is exact too. Entries that are zero in W or in b (pruned ones) are left out of both sums.

    Args:
        weight, bias: the gradients.
        std: standard deviation of noise on them: b_i^2 then overestimates the square by its variance, which is taken off.

    Returns:
        The inputs; zero where no row tells them.
    """
    told = (weight != 0) & (bias != 0)[..., None]
    numerator = (bias[..., None] * weight * told).sum(1)
    squared = (bias.square()[..., None] * told).sum(1)
    denominator = torch.maximum(squared - std**2 * told.sum(1), 0.1 * squared)
    return torch.where(squared > 0, numerator / denominator.clamp_min(torch.finfo(weight.dtype).tiny), 0)
