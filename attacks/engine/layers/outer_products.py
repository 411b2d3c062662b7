"""Comparing gradients that are sums of outer products of errors and inputs, without forming them.

For one victim with inputs a [P, I] and errors delta [P, O] over P images and positions, the gradient of the weight is delta^T a.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attacks.engine.kernels.products import Matrices
from attacks.objective.comparison import Comparison, dot

#: Pairs of positions up to which products of a mask with them are faster than forming the gradient, and vectors, beside those of
#: the pairs, that making and summing them costs. Measured with one thread, how many times as fast as forming: 1024 x 3072 50 times
#: with one pair, 5 with 36, 2 with 136; 256 x 256 4, 2.4 and 1.1; 64 x 192 1.0, 0.6 and 0.3.
_MOST_PAIRS, _VECTORS_BESIDE = 136, 48


def unformed(a: Tensor, delta: Tensor, observed: Matrices, mask: Matrices | None = None) -> Comparison:
    """Inputs [S, P, I] and errors [S, P, O] against one matrix [O, I] a slot (zero where masked), without forming a gradient."""
    return Comparison(*(_Unformed.apply(a, delta, observed) if mask is None else _Masked.apply(a, delta, observed, mask)))


def cheaper_unformed(positions: int, rows: int, columns: int, *, masked: bool) -> bool:
    """Whether the products of P x P Gram matrices, or of a mask with pairs of positions, take less than forming the gradient."""
    if masked:
        pairs = positions * (positions + 1) // 2
        return pairs <= _MOST_PAIRS and (_VECTORS_BESIDE + pairs) * (rows + columns) <= rows * columns
    return 2 * positions * (rows + columns) <= rows * columns  # than one further product with a formed gradient


class _Unformed(torch.autograd.Function):
    """<delta^T a, G> = sum of (delta G) * a, and |delta^T a|^2 = sum of (delta delta^T) * (a a^T).

    Both derivatives are in closed form: delta G is the inner product's by a, and a G^T that by delta. So both are made in the
    forward pass, in which G need be read only once.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, delta: Tensor, observed: Matrices) -> tuple[Tensor, Tensor]:
        by_a, by_delta = observed.products(delta, a)
        gram_a, gram_delta = a @ a.mT, delta @ delta.mT
        ctx.save_for_backward(a, delta, by_a, by_delta, gram_a, gram_delta)
        return dot(by_a.flatten(1), a.flatten(1)), dot(gram_a.flatten(1), gram_delta.flatten(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_product: Tensor, by_squared: Tensor) -> tuple[Tensor, Tensor, None]:
        a, delta, by_a, by_delta, gram_a, gram_delta = ctx.saved_tensors
        p, s = by_product[:, None, None], 2 * by_squared[:, None, None]
        return p * by_a + (s * gram_delta) @ a, p * by_delta + (s * gram_a) @ delta, None


class _Masked(torch.autograd.Function):
    """The same over the entries that a mask m leaves: <delta^T a, G> for G zero elsewhere, and |m * (delta^T a)|^2.

    The products with the mask give the derivatives of the latter, and these its value.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, delta: Tensor, observed: Matrices, mask: Matrices) -> tuple[Tensor, Tensor]:
        by_a, by_delta = observed.products(delta, a)
        half_by_a, half_by_delta = masked_energy(a, delta, mask)
        ctx.save_for_backward(by_a, by_delta, half_by_a, half_by_delta)
        return dot(by_a.flatten(1), a.flatten(1)), dot(half_by_a.flatten(1), a.flatten(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_product: Tensor, by_squared: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_a, by_delta, half_by_a, half_by_delta = ctx.saved_tensors
        p, s = by_product[:, None, None], 2 * by_squared[:, None, None]
        return p * by_a + s * half_by_a, p * by_delta + s * half_by_delta, None, None


def masked_energy(a: Tensor, delta: Tensor, mask: Matrices) -> tuple[Tensor, Tensor]:
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
