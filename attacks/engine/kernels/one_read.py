"""Products of stored matrices with vectors from both sides, in parts that stay in the cache between the two."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.engine.kernels import native

#: Bytes of a part in float32: the second product finds the part that the first has read in the cache (measured on 32 matrices
#: of 1024 x 3072, two at a time: 0.77 ms a matrix in parts of 1 to 3 MB, 1.02 ms whole, and 0.85 from bfloat16).
_PART = 3 * 2**20


def both_products(matrices: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Products with matrices G [S, O, I] from both sides, each matrix read from memory once.

    Args:
        matrices: in the type of the vectors, or in bfloat16 or masks, from which parts are widened.
        left: [S, P, O].
        right: [S, P, I].

    Returns:
        left G [S, P, I] and right G^T [S, P, O], in the type of the vectors.
    """
    if native.applies(matrices, left):
        return native.both_products(matrices, left, right)
    slots, rows, columns = matrices.shape
    at_once = max(1, torch.get_num_threads()) if matrices.device.type == "cpu" else slots
    share = max(1, _PART // (4 * columns * at_once)) if matrices.device.type == "cpu" else rows
    if share >= rows and matrices.dtype == left.dtype:
        return torch.bmm(left, matrices), torch.bmm(right, matrices.mT)
    by_right, by_left = left.new_zeros(right.shape), left.new_empty(left.shape)
    for first in range(0, slots, at_once):
        some = slice(first, first + at_once)
        for row in range(0, rows, share):
            part, where = matrices[some, row : row + share].to(left.dtype), slice(row, row + share)
            by_right[some].baddbmm_(left[some, :, where], part)
            by_left[some, :, where] = torch.bmm(right[some], part.mT)
    return by_right, by_left
