"""Gradients of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import Bounds, Stage
from defenses.step import Facts, Gradients, Step
from defenses.support import checks

#: Of the energy of what left, what is taken for rounding.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class TruncatedSVD(Defense):
    """Share of each weight's gradient, as a matrix [outputs, rest], the fewest singular components that hold a share of its energy
    (the truncation of SVDefense, Luo et al., NDSS 2026, in its simplest form). Parameters of one dimension, as biases, are left.

    The energy is the sum of squared singular values. SVDefense also adapts the share to how unequal a client's classes are, weights
    channels before the decomposition and layers at the server; these are not built here. The gradient of one image by a linear
    layer that saw it once has rank one, and passes untouched whatever the share. For a curve it is swept over
    [0.5, 0.7, 0.9, 0.95, 0.99].

    Args:
        energy: share that is kept, 0 < energy <= 1; at least one component is.
    """

    name: ClassVar[str] = "svd"
    summary: ClassVar[str] = "each weight's gradient is cut to the singular components that hold a share of its energy"
    paper: ClassVar[str] = "Luo et al., NDSS 2026"

    energy: float = 0.9

    def __post_init__(self) -> None:
        checks.number("energy", self.energy, above=0, at_most=1)

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        return {name: LowRank(self.energy).passed(g[None])[0] if g.dim() > 1 else g for name, g in gradients.items()}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        dimensions = {name: p.dim() for name, p in facts.module.named_parameters()}
        return {name: Release((LowRank(self.energy),) if dimensions[name] > 1 else ()) for name in shared}


@dataclass(frozen=True)
class LowRank(Stage):
    """The fewest singular components that hold a share of the energy were kept.

    Args:
        energy: the share, 0 < energy <= 1.
    """

    elementwise: ClassVar[bool] = False
    spares_rank_one: ClassVar[bool] = True

    energy: float

    def passed(self, gradient: Tensor) -> Tensor:
        """The truncation itself. Its derivative is taken as it is where the components that are kept are much larger than the
        others: of a change, what lies in the span of the kept rows or columns. The exact one has differences of squared singular
        values in denominators."""
        return gradient if self.energy == 1 else _along(gradient.detach(), self.energy)(gradient)

    def shown(self, left: Tensor) -> Callable[[Tensor], Tensor] | None:
        # Whatever was cut has its rows and its columns across those of what left.
        return None if self.energy == 1 else _along(left, 1 - _ROUNDING)

    def before(self, after: Bounds) -> Bounds:
        # What was cut is in the Frobenius norm at most so long, of which an entry cannot be longer.
        most = torch.maximum(after.low.abs(), after.high.abs()).flatten(1).norm(dim=1) * math.sqrt((1 - self.energy) / self.energy)
        most = (1 + 1e-5) * most.view(-1, *[1] * (after.low.dim() - 1))
        return Bounds(after.low - most, after.high + most)


def _along(of: Tensor, energy: float) -> Callable[[Tensor], Tensor]:
    """What of gradients has rows or columns in the span of those that hold a share of the energy of others, which are as many or
    one."""
    columns, rows = (span.to(of.dtype) for span in _kept(_matrices(of), energy))

    def part(gradient: Tensor) -> Tensor:
        matrix = _matrices(gradient)
        rest = matrix - columns @ (columns.mT @ matrix)
        along = matrix - (rest - rest @ rows @ rows.mT)
        upright = gradient.shape[1] > gradient[0, 0].numel()
        return (along.mT if upright else along).reshape(gradient.shape)

    return part


def _matrices(gradient: Tensor) -> Tensor:
    """Gradients [N, outputs, ...] as matrices [N, m, n], m <= n."""
    matrix = gradient.flatten(2) if gradient.dim() > 2 else gradient
    return matrix.mT if matrix.shape[1] > matrix.shape[2] else matrix


def _kept(matrix: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """The left and right singular vectors [N, m, m] and [N, n, m] of matrices [N, m, n], m <= n; zero for those that are not
    kept."""
    # From the eigenvalues of the smaller product, in float64 for the digits that squaring costs: singular values of many
    # matrices take a GPU far longer.
    matrix = matrix.double()
    energies, columns = torch.linalg.eigh(matrix @ matrix.mT)
    energies = energies.clamp_min(0)
    larger = energies.sum(-1, keepdim=True) - energies.cumsum(-1)  # they ascend
    kept = (larger < energy * energies.sum(-1, keepdim=True)) & (energies > 0)
    columns = columns * kept[..., None, :]
    rows = matrix.mT @ columns / torch.where(kept, energies, 1).sqrt()[..., None, :]
    return columns, rows
