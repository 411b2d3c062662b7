"""Products of stored matrices with vectors from both sides, reading each matrix from memory once."""

from __future__ import annotations

import torch
from torch import Tensor


def both_products(matrices: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Of G [S, O, I], left [S, P, O] and right [S, P, I]: left G [S, P, I] and right G^T [S, P, O]."""
    if matrices.dtype != left.dtype:
        matrices = matrices.to(left.dtype)
    return torch.bmm(left, matrices), torch.bmm(right, matrices.mT)
