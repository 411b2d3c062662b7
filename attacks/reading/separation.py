"""Telling apart the inputs of a linear layer that saw several images, from rows that are active for one of them alone."""

from __future__ import annotations

import torch
from torch import Tensor

#: Two rows tell the same image where their inputs differ by less than this share of their length; rounding is far below.
_SAME = 1e-3


def separated_inputs(weight: Tensor, bias: Tensor, batch_size: int, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """The inputs [N, B, I] of linear layers that saw B images each, from the gradients [N, O, I] of weight and [N, O] of bias.

    A row of the gradient is sum_b delta_bi a_b^T. Behind a ReLU delta_bi is zero where unit i is not active, so a row that is
    active for one image alone gives it by W_i / b_i; rows of one image agree, while rows of several images are mixtures that
    agree with no other. The B largest groups of agreeing rows are returned; of groups of one size, and of rows that agree with no
    other, those nearest to the box of valid inputs come first.

    Args:
        weight, bias: the gradients.
        batch_size: B.
        bounds: least and largest valid value of each input, [I].
    """
    return torch.stack([_separate(w, b, batch_size, bounds) for w, b in zip(weight, bias, strict=True)])


def _separate(weight: Tensor, bias: Tensor, batch_size: int, bounds: tuple[Tensor, Tensor]) -> Tensor:
    active = bias.abs() > 1e-6 * bias.abs().max()
    weight, bias = weight[active], bias[active]
    rows = (weight / bias[:, None])[bias.abs().argsort(descending=True)]  # those of large errors are the most precise
    precise = rows.double()
    squared = precise.square().sum(1)
    agree = squared[:, None] + squared - 2 * precise @ precise.T < _SAME**2 * squared[:, None]
    outside = torch.maximum(bounds[0] - rows, rows - bounds[1]).clamp_min(0).square().sum(1)
    # Read once: the groups are few, and found one after another.
    agreeing, distances = agree.cpu(), outside.tolist()
    free = torch.ones(len(rows), dtype=torch.bool)
    groups: list[tuple[int, float, int]] = []
    for row in range(len(rows)):
        if bool(free[row]):
            group = agreeing[row] & free
            free &= ~group
            groups.append((-int(group.sum()), distances[row], row))
    chosen = [rows[row] for _, _, row in sorted(groups)[:batch_size]]
    missing = [weight.new_zeros(weight.shape[1])] * (batch_size - len(chosen))  # fewer rows than images
    return torch.stack([*chosen, *missing])
