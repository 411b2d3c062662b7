"""What entered a linear layer, read from its gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_inputs(weight: Tensor, bias: Tensor, *, variance: float = 0.0, seen: Tensor | None = None) -> Tensor:
    """The inputs [N, I] of linear layers that saw one image each, from the gradients [N, O, I] of their weight and [N, O] of bias.

    For one image the gradients are W = delta a^T and b = delta, so each row tells the input: a = W_i / b_i (Phong et al., 2018;
    Geiping et al., 2020, proposition 3.1). All rows are combined by least squares, a_j = sum_i b_i W_ij / sum_i b_i^2, which for a
    gradient without noise is exact too.

    Args:
        weight, bias: the gradients.
        variance: of noise that is known to be on them: b_i^2 then overestimates the square by it, which is taken off.
        seen: [N, O, I], true where the entries of both are told; the others are left out of both sums. None for everywhere.

    Returns:
        The inputs; zero where no row tells them.
    """
    if seen is None:
        seen = torch.ones_like(weight, dtype=torch.bool)
    numerator = (bias[..., None] * weight * seen).sum(1)
    squared = (bias.square()[..., None] * seen).sum(1)
    denominator = torch.maximum(squared - variance * seen.sum(1), 0.1 * squared)
    return torch.where(squared > 0, numerator / denominator.clamp_min(torch.finfo(weight.dtype).tiny), 0)
