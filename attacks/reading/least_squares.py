"""Linear least squares of many victims at once, by products with the operator and its adjoint alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_Operator = Callable[[Tensor], list[Tensor]]
_Adjoint = Callable[[list[Tensor]], Tensor]


def least_squares(operator: _Operator, adjoint: _Adjoint, right: Sequence[Tensor], start: Tensor, *, iterations: int,
                  tolerance: float) -> Tensor:
    """The x [N, ...] that minimises |A x - b|^2 for each of N victims, by conjugate gradients on the normal equations (CGLS;
    Hestenes & Stiefel, 1952). Few iterations give smooth solutions of small norm.

    Args:
        operator: A, of x [N, ...] several tensors [N, ...].
        adjoint: its adjoint.
        right: b, as A x.
        start: x to begin with [N, ...].
        iterations: at most, >= 1.
        tolerance: of |A^T r| relative to its first value, below which a victim is solved; it then stays as it is.

    Returns:
        x; where numbers are no longer finite, that of before.
    """
    def along(victims: Tensor, like: Tensor) -> Tensor:
        return victims.view(-1, *[1] * (like.dim() - 1))

    def squared(*parts: Tensor) -> Tensor:
        return torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0)

    x = start
    residual = [b - a for b, a in zip(right, operator(x), strict=True)]
    slope = adjoint(residual)
    direction, norm = slope, squared(slope)
    enough = norm * tolerance**2
    for _ in range(iterations):
        ahead = operator(direction)
        length = norm / squared(*ahead)
        # Of a victim that is solved, or whose numbers overflow, nothing moves: no host read decides it.
        length = torch.where((norm > enough) & torch.isfinite(length), length, 0)
        x = torch.addcmul(x, along(length, x), direction)
        residual = [torch.addcmul(r, along(length, r), a, value=-1) for r, a in zip(residual, ahead, strict=True)]
        slope = adjoint(residual)
        before, norm = norm, torch.where(length > 0, squared(slope), norm)
        direction = torch.addcmul(slope, along(torch.where(before > 0, norm / before, 0), slope), direction)
    return x
