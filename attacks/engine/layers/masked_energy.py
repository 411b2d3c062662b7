"""The squared norm of a gradient over the entries that a mask leaves, without forming the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.engine.kernels.products import Matrices

#: Pairs up to which their products are faster than forming the gradient, and vectors, beside those of the pairs, that making and
#: summing them costs. Measured with one thread, how many times as fast as forming: 1024 x 3072 50 times with one pair, 5 with 36,
#: 2 with 136; 256 x 256 4, 2.4 and 1.1; 64 x 192 1.0, 0.6 and 0.3.
_MOST_PAIRS, _VECTORS_BESIDE = 136, 48


def cheaper(positions: int, rows: int, columns: int) -> bool:
    """Whether the products of the mask with all pairs of positions are faster than forming the gradient."""
    pairs = positions * (positions + 1) // 2
    return pairs <= _MOST_PAIRS and (_VECTORS_BESIDE + pairs) * (rows + columns) <= rows * columns


def derivatives(a: Tensor, delta: Tensor, mask: Matrices) -> tuple[Tensor, Tensor]:
    """Half the derivatives, by inputs a [S, P, I] and by errors delta [S, P, O], of |m * (delta^T a)|^2 for masks m [O, I].

    As m is zero or one, this is a sum over pairs of positions of (delta_p * delta_q)^T m (a_p * a_q), bilinear in the products
    within each pair: for one image one further pair of vectors that meets the mask from both sides. The squared norm is the inner
    product of a derivative with what it is by, since it is quadratic in either.
    """
    by_pair_of_a, by_pair_of_delta = mask.products(_pairs(delta), _pairs(a))
    return _over_partners(by_pair_of_a, a), _over_partners(by_pair_of_delta, delta)


def _pairs(values: Tensor) -> Tensor:
    """Products of the vectors [S, P, n] at positions p <= q: [S, P (P + 1) / 2, n], one p after another."""
    return torch.cat([values[:, p : p + 1] * values[:, p:] for p in range(values.shape[1])], 1)


def _over_partners(by_pair: Tensor, values: Tensor) -> Tensor:
    """For each position the sum over all others, and itself, of their vector times what their pair has: [S, P, n]."""
    positions = values.shape[1]
    summed = torch.zeros_like(values)
    for p, own in enumerate(by_pair.split(list(range(positions, 0, -1)), 1)):  # the pairs of p with itself and later ones
        summed[:, p] += (own * values[:, p:]).sum(1)
        summed[:, p + 1 :] += own[:, 1:] * values[:, p : p + 1]
    return summed
