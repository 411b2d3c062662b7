"""Comparing gradients that are sums of outer products of errors and inputs, without forming them.

For one victim with inputs a [P, I] and errors delta [P, O] over P images and positions, the gradient of the weight is delta^T a.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attacks.engine.kernels.products import Matrices
from attacks.engine.layers import masked_energy
from attacks.objective.comparison import Comparison, dot


def unformed(a: Tensor, delta: Tensor, observed: Matrices, mask: Matrices | None = None) -> Comparison:
    """Inputs [S, P, I] and errors [S, P, O] against one matrix [O, I] a slot (zero where masked), without forming a gradient."""
    return Comparison(*(_Unformed.apply(a, delta, observed) if mask is None else _Masked.apply(a, delta, observed, mask)))


def cheaper_unformed(positions: int, rows: int, columns: int, *, masked: bool) -> bool:
    """Whether the products of P x P Gram matrices, or of a mask with pairs of positions, take less than forming the gradient."""
    if masked:
        return masked_energy.cheaper(positions, rows, columns)
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
        half_by_a, half_by_delta = masked_energy.derivatives(a, delta, mask)
        ctx.save_for_backward(by_a, by_delta, half_by_a, half_by_delta)
        return dot(by_a.flatten(1), a.flatten(1)), dot(half_by_a.flatten(1), a.flatten(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_product: Tensor, by_squared: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_a, by_delta, half_by_a, half_by_delta = ctx.saved_tensors
        p, s = by_product[:, None, None], 2 * by_squared[:, None, None]
        return p * by_a + s * half_by_a, p * by_delta + s * half_by_delta, None, None
