"""Stochastic rounding of the gradient to a few levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import Bounds, OwnLikelihood
from defenses.step import Facts, Gradients, Step
from defenses.support import checks

#: Relative to a step, or to the largest entry: what rounding may change of a candidate's gradient.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Quantisation(Defense):
    """Round each entry at random to one of the two levels beside it, so that its mean stays (QSGD; Alistarh et al., NeurIPS 2017,
    section 3.1).

    The magnitudes are l / s times the norm of the tensor, l = 0, ..., s. The norm is the largest magnitude, as in the paper's
    experiments (its theory has the Euclidean norm), over the whole tensor, not over buckets of it. With s = 1 it is
    TernGrad without its clipping (Wen et al., NeurIPS 2017). For a curve the levels are swept over [1, 3, 7, 15, 127], which is
    2 to 8 bits an entry.

    Args:
        levels: s, of magnitudes above zero, >= 1.
    """

    name: ClassVar[str] = "quantisation"
    summary: ClassVar[str] = "each entry is rounded up or down at random to one of a few levels, unbiased"
    paper: ClassVar[str] = "Alistarh et al., NeurIPS 2017"

    levels: int = 7

    def __post_init__(self) -> None:
        checks.whole("levels", self.levels, at_least=1)

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        return {name: self._round(g, step.generator) for name, g in gradients.items()}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return dict.fromkeys(shared, Release((StochasticRounding(self.levels),)))

    def _round(self, gradient: Tensor, generator: torch.Generator) -> Tensor:
        largest = gradient.abs().amax()
        magnitude = gradient.abs() / torch.where(largest > 0, largest, 1) * self.levels
        up = torch.empty_like(gradient).uniform_(generator=generator) < magnitude.frac()
        return gradient.sign() * (magnitude.floor() + up) * (largest / self.levels)


@dataclass(frozen=True)
class StochasticRounding(OwnLikelihood):
    """Each entry became one of the two multiples of a step beside it, at random with the mean kept. The largest magnitude is a
    multiple, and stays: it tells the step.

    An entry g becomes v with probability 1 - |g - v| / step, and no other largest magnitude than that which is seen is possible.
    Where a candidate is ruled out, the surprise goes on with the slope that it has at the size of rounding, so that it is finite
    and tells a search where to go.

    Args:
        levels: steps in the largest magnitude.
    """

    levels: int

    def surprise(self, own: Tensor, left: Tensor) -> Tensor:
        own, left = own.flatten(1), left.flatten(1)
        seen, largest = left.abs().amax(1, keepdim=True), own.abs().amax(1, keepdim=True)
        scale = torch.where(seen > 0, seen, largest.detach()).clamp_min(torch.finfo(own.dtype).tiny)
        away = (own - left).abs() / scale * self.levels
        # The logarithm, and beyond what rounding explains its tangent there.
        chance = (1 - away).clamp_min(_ROUNDING)
        entries = -chance.log() + (away - (1 - _ROUNDING)).clamp_min(0) / _ROUNDING
        off = ((largest - seen) / scale).abs() / _ROUNDING  # in units of rounding: a square within it, a line beyond
        return entries.sum(1) + torch.where(off < 1, off.square() / 2, off - 0.5)[:, 0]

    def typical(self, left: Tensor) -> tuple[Tensor, Tensor]:
        place, weight = self._between(left)
        up, down = place * place.log(), (1 - place) * (1 - place).log()
        mean = -((up + down) * weight).sum(1)
        second = ((up * place.log() + down * (1 - place).log()) * weight).sum(1)
        entries = left[0].numel()
        return entries * mean, entries * (second - mean.square()).clamp_min(0)

    def as_noise(self, left: Tensor) -> Tensor:
        place, weight = self._between(left)
        step = left.flatten(1).abs().amax(1) / self.levels
        return step.square() * (place * (1 - place) * weight).sum(1)

    def before(self, after: Bounds) -> Bounds:
        magnitudes = torch.maximum(after.low.abs(), after.high.abs()).flatten(1)
        step = (1 + 1e-5) * magnitudes.amax(1).view(-1, *[1] * (after.low.dim() - 1)) / self.levels
        return Bounds(after.low - step, after.high + step)

    def _between(self, left: Tensor) -> tuple[Tensor, Tensor]:
        """Where entries lay between the levels beside them, of 0 to 1, and the weight of each place: [200] and [N, 200].

        Magnitudes are taken to have an exponential law, whose mean is that of what left: cut into steps, it is the same in each."""
        left = left.flatten(1)
        mean = self.levels * left.abs().mean(1) / left.abs().amax(1).clamp_min(torch.finfo(left.dtype).tiny)  # in steps
        place = (torch.arange(200, device=left.device, dtype=left.dtype) + 0.5) / 200
        weight = (-place / mean.clamp_min(1e-3)[:, None]).exp()
        return place, weight / weight.sum(1, keepdim=True)
