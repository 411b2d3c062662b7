"""Setting the smallest entries of a tensor to zero."""

from __future__ import annotations

import torch
from torch import Tensor

#: Entries from which on, on a CPU, the upper halves of their bits are counted first: below it selecting at once is as fast.
_MANY = 2**16


def without_smallest(values: Tensor, count: int) -> Tensor:
    """Copy with exactly ``count`` entries of smallest magnitude zero; NaN is the largest. Which of equal ones is not said.

    Args:
        values: [N], any device and floating type.
        count: 1 to N.
    """
    magnitudes = values.abs()
    if values.device.type != "cpu" or values.dtype != torch.float32 or len(values) < _MANY:
        return values.index_fill(0, magnitudes.topk(count, largest=False, sorted=False).indices, 0.0)
    # Numbers that are not negative are ordered as their bits are. The upper half of these, whose values are counted, tells nearly
    # all apart; left to be selected are entries in whose upper half the edge lies. On a GPU the counts would make the host wait.
    upper = magnitudes.view(torch.int32) >> 16
    up_to = upper.bincount(minlength=2**15).cumsum(0)
    edge = int(torch.searchsorted(up_to, count))
    kept = torch.where(upper > edge, values, 0.0)
    at_edge = (upper == edge).nonzero().flatten()
    largest = at_edge[magnitudes[at_edge].topk(int(up_to[edge]) - count, sorted=False).indices]
    return kept.index_copy_(0, largest, values[largest])
