"""A function of a number's magnitude from a table."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: Steps of a table for each e-fold of the distance from where the function changes fastest.
_STEPS = 64


class Tabulated:
    """A smooth function of |x|, by cubic pieces that meet in value and slope (Hermite), and constant from ``end`` on: one look into
    a table in the place of many exponentials. It is differentiable by autograd, once.

    The steps of the table grow with the distance from ``centre``, from ``finest`` / 64 on, so that what changes within ``finest``
    of it, and slowly elsewhere, takes few. In float32 it is off by some 1e-5 of the function.

    Args:
        function: of a tensor of magnitudes, elementwise and differentiable.
        centre: where the function changes fastest, >= 0.
        finest: within what distance it changes there, > 0.
        end: > centre.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], *, centre: float, finest: float, end: float):
        self._centre, self._finest, self._end = centre, finest, end
        self._first, last = (math.asinh((x - centre) / finest) for x in (0.0, end))
        self._pieces = math.ceil((last - self._first) * _STEPS)
        self._per_unit = self._pieces / (last - self._first)
        u = torch.linspace(self._first, last, self._pieces + 1, dtype=torch.float64).requires_grad_()
        y = function(centre + finest * u.sinh())
        slope, = torch.autograd.grad(y.sum(), u)
        y, slope = y.detach(), slope / self._per_unit
        rise, at, to = y.diff(), slope[:-1], slope[1:]
        self._coefficients = torch.stack([y[:-1], at, 3 * rise - 2 * at - to, at + to - 2 * rise])
        self._there: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        where = (x.device, x.dtype)
        if where not in self._there:
            self._there[where] = self._coefficients.to(*where).unbind()
        place = (((x.abs().clamp_max(self._end) - self._centre) / self._finest).asinh() - self._first) * self._per_unit
        piece = place.detach().long().clamp(0, self._pieces - 1)
        beyond = place - piece
        constant, linear, square, cube = (of[piece] for of in self._there[where])
        return constant + beyond * (linear + beyond * (square + beyond * cube))
