"""A random direction orthogonal to the gradient in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense
from defenses.evaluating import evaluating
from defenses.release import Release
from defenses.stages import OwnLikelihood
from defenses.step import Facts, Gradients, Step
from defenses.support import checks
from defenses.support.replaced import Replaced

#: What rounding changes of a cosine and, relatively, of a norm.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Orthogonal(OwnLikelihood):
    """In the place of the gradient there is a vector that is orthogonal to it and as long, in a direction that is random but for a
    choice among few, which is neglected."""

    exact: ClassVar[bool] = False

    def surprise(self, own: Tensor, left: Tensor) -> Tensor:
        own, left = own.flatten(1), left.flatten(1)
        least = torch.finfo(own.dtype).tiny
        # A gradient of zero is long by nothing, and orthogonal to everything.
        lengths = [of.square().sum(1).clamp_min(least).sqrt() for of in (own, left)]
        cosine = (own / lengths[0][:, None] * (left / lengths[1][:, None])).sum(1)
        ratio = lengths[0].log() - lengths[1].log()
        if left.shape[1] == 1:  # nothing is orthogonal to a number
            return torch.zeros_like(ratio)
        return (cosine.square() + ratio.square()) / (2 * _ROUNDING**2)


@dataclass(frozen=True)
class CENSOR(Defense):
    """Share in each tensor's place a random vector that is orthogonal to its gradient and as long; of several such gradients the
    one after which a trial step leaves the lowest loss on the batch (Zhang et al., NDSS 2025: a cold posterior over the orthogonal
    subspace).

    Nothing is orthogonal to a tensor of one entry, in whose place zero is shared. A step takes one gradient and ``trials`` forward
    passes, in evaluation mode, where stochastic layers give the means of what they sample.

    The released code differs: it divides the projection by |g| instead of |g|^2, so that what is shared is orthogonal where |g| is
    1 alone; where no trial comes below the loss before the step it shares the gradient as it is; it defends one image's gradient at
    the beginning of each of ten epochs and trains undefended in between. Here every step is defended. The trial step's size
    is that of the code; the strength for a curve is ``trials``, over 1, 20, 200.

    Args:
        trials: random gradients among which the best is chosen, >= 1.
        step_size: of the trial step, a plain step against the shared gradient, >= 0.
    """

    name: ClassVar[str] = "censor"
    summary: ClassVar[str] = "a random direction orthogonal to each gradient tensor, the best of several by the loss"
    paper: ClassVar[str] = "Zhang et al., NDSS 2025"
    acts: ClassVar[str] = "step"

    trials: int = 20
    step_size: float = 1e-4

    def __post_init__(self) -> None:
        checks.whole("trials", self.trials, at_least=1)
        checks.number("step_size", self.step_size, at_least=0)

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        best = self._draw(gradients, step)
        if self.trials == 1:
            return best
        with torch.no_grad(), evaluating(step.module):
            lowest = self._loss_after(best, step)
            for _ in range(self.trials - 1):
                drawn = self._draw(gradients, step)
                loss = self._loss_after(drawn, step)
                # On the device, so that the host does not wait.
                best = {name: torch.where(loss < lowest, g, best[name]) for name, g in drawn.items()}
                lowest = torch.minimum(loss, lowest)
        return best

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return dict.fromkeys(shared, Release((Orthogonal(),)))

    def _draw(self, gradients: Gradients, step: Step) -> Gradients:
        return {name: _orthogonal(g, step.generator) for name, g in gradients.items()}

    def _loss_after(self, shared: Gradients, step: Step) -> Tensor:
        before = dict(step.module.named_parameters())
        moved = {name: before[name] - self.step_size * g for name, g in shared.items()}
        return step.losses(step.batch, Replaced(step.module, moved)).mean()


def _orthogonal(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """A random vector orthogonal to the gradient and as long."""
    drawn = torch.empty_like(gradient).normal_(generator=generator)
    if gradient.numel() == 1:
        return torch.zeros_like(gradient)
    tiny = torch.finfo(gradient.dtype).tiny
    length = gradient.norm()
    unit = gradient / length.clamp_min(tiny)
    for _ in range(2):  # what rounding leaves of it the first time goes the second
        drawn = drawn - (drawn * unit).sum() * unit
    return drawn * (length / drawn.norm().clamp_min(tiny))
