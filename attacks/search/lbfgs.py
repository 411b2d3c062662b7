"""L-BFGS for many victims at once, each with its own history."""

from __future__ import annotations

import torch
from torch import Tensor


class BatchedLBFGS:
    """Limited-memory BFGS without a line search (Liu & Nocedal, 1989), as torch.optim.LBFGS takes its steps, for each row alone.

    Args:
        points: [S, n], where to begin, changed in place.
        step_size: of all steps but the first, which is at most 1 / |derivative|_1 long.
        history: pairs of differences that are kept.
    """

    def __init__(self, points: Tensor, *, step_size: float = 1.0, history: int = 20) -> None:
        self.points, self._step_size, self._history = points, step_size, history
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change of the derivative, 1 / their product or 0
        self._scale = points.new_ones(len(points), 1)
        self._derivative: Tensor | None = None
        self._taken = points

    def step(self, derivative: Tensor) -> None:
        """One step from the derivative [S, n] at the present points; rows where it is not finite stay where they are."""
        finite = torch.isfinite(derivative).all(1, keepdim=True)
        derivative = torch.where(finite, derivative, 0)
        if self._derivative is None:
            length = (1 / derivative.abs().sum(1, keepdim=True).clamp_min(torch.finfo(derivative.dtype).tiny)).clamp_max(1)
            self._taken = -self._step_size * length * derivative
        else:
            self._remember(derivative - self._derivative)
            self._taken = self._step_size * self._direction(derivative)
        self._taken = torch.where(finite & torch.isfinite(self._taken).all(1, keepdim=True), self._taken, 0)
        self._derivative = derivative
        self.points += self._taken

    def _remember(self, change: Tensor) -> None:
        product = (change * self._taken).sum(1, keepdim=True)
        curved = product > 1e-10  # otherwise the pair of this row does not count
        inverse = torch.where(curved, 1 / product, 0)
        self._scale = torch.where(curved, product / change.square().sum(1, keepdim=True), self._scale)
        self._pairs = [*self._pairs[-self._history + 1 :], (self._taken, change, inverse)]

    def _direction(self, derivative: Tensor) -> Tensor:
        q, weights = -derivative, []
        for step, change, inverse in reversed(self._pairs):
            weights.append((step * q).sum(1, keepdim=True) * inverse)
            q = q - weights[-1] * change
        q = q * self._scale
        for (step, change, inverse), weight in zip(self._pairs, reversed(weights), strict=True):
            q = q + step * (weight - (change * q).sum(1, keepdim=True) * inverse)
        return q
