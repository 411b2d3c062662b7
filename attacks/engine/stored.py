"""Observed gradients of large matrices, stored for their products with vectors from either side."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.engine.kernels.products import both_products
from attacks.engine.slots import Slots

#: A larger rank is not looked for.
_LARGEST_RANK = 32


class Dense:
    """Stored as they are, zero where masked, masks as bytes; each matrix is read once for both products."""

    def __init__(self, gradients: Tensor, slots: Slots, *, mask: Tensor | None = None) -> None:
        self._held = slots.hold(gradients, mask=mask)

    def products(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return both_products(self._held.value, left, right)


class Factored:
    """Stored as U V with few columns U [O, R] and rows V [R, I]."""

    def __init__(self, factors: tuple[Tensor, Tensor], slots: Slots) -> None:
        self._u, self._v = (slots.hold(factor) for factor in factors)

    def products(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        u, v = self._u.value, self._v.value
        return (left @ u) @ v, (right @ v.mT) @ u.mT


def factors(gradients: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """Write matrices [N, O, I] as U [N, O, R] times V [N, R, I], where all of them have a rank of at most ``rank``.

    The gradient of a linear layer is a sum of one outer product an image (and position), so that of an undefended client has
    such a rank. Columns of U are an orthonormal basis of the range, from products with random vectors (Halko et al., 2011).

    Returns:
        The factors, whose product is the given matrices to the rounding of their type; None where the rank of any is larger, or
        where the factors would not be at least four times smaller.
    """
    victims, rows, columns = gradients.shape
    if rank > _LARGEST_RANK or 4 * rank * (rows + columns) > rows * columns:
        return None
    generator = torch.Generator("cpu").manual_seed(0)
    probes = torch.randn(columns, rank, generator=generator, device="cpu").to(gradients)
    u, v = gradients.new_empty(victims, rows, rank), gradients.new_empty(victims, rank, columns)
    lost = gradients.new_empty(1, rows, columns)
    for victim in range(victims):  # one at a time, which stays in the cache from one product to the next
        own = gradients[victim : victim + 1]
        product = own @ probes
        if not bool(torch.isfinite(product).all()):
            return None
        basis = torch.linalg.qr(product).Q
        # Once to and fro: random vectors may nearly miss a direction, those of the row space do not.
        basis = torch.linalg.qr(own @ torch.linalg.qr((basis.mT @ own).mT).Q).Q
        right = basis.mT @ own
        torch.baddbmm(own, basis, right, alpha=-1, out=lost)
        if not bool(torch.linalg.vector_norm(lost) <= 16 * torch.finfo(own.dtype).eps * torch.linalg.vector_norm(own)):
            return None
        u[victim], v[victim] = basis[0], right[0]
    return u, v
