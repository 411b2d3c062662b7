"""Pruning and noise where the gradient is large, in ever fewer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import Kept, OwnLikelihood
from defenses.step import Facts, Gradients, Step
from defenses.support import checks
from defenses.support.smallest import without_smallest

#: What rounding changes of a gradient, relative to the root of the mean square of its entries.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Perturbed(OwnLikelihood):
    """With a probability all but the largest entries became zero and noise was added to the largest entries of the whole gradient,
    how many of these are in a tensor is not known; else nothing happened.

    Entries that are not zero are the largest: those that were kept, or those with noise, whichever are more. Where there are more
    of them than were kept, all carry noise; else each does or does not, which is taken for equally likely.

    Args:
        count: entries of each tensor that were kept.
        std: of the noise, >= 0, a tensor without axes on the device of the model.
        probability: that the step was defended, > 0.
    """

    exact: ClassVar[bool] = False

    count: int
    std: Tensor
    probability: float

    def surprise(self, own: Tensor, left: Tensor) -> Tensor:
        own, left = own.flatten(1), left.flatten(1)
        exact = self._exact(left)
        kept = own.detach().abs().topk(self.count, sorted=False).indices
        kept_own = own * torch.zeros_like(own).scatter(1, kept, 1.0)
        perturbed = self._of_entries(left - kept_own, left, exact).sum(1) - math.log(self.probability)
        if self.probability == 1:
            return perturbed
        plain = _nats(left - own, exact).sum(1) - math.log1p(-self.probability)
        return -torch.logaddexp(-perturbed, -plain)

    def typical(self, left: Tensor) -> tuple[Tensor, Tensor]:
        left = left.flatten(1)
        exact, noisy = self._exact(left), self._noisy(left)
        nothing = torch.zeros_like(left)
        # At the original entries without noise are met exactly, and noise is above the least by half a nat on the average, less
        # where it is no more than what rounding is taken for.
        squared = noisy * self.std**2 / (self.std**2 + exact.square())
        plain = (left != 0).all(1) if self.probability < 0.5 else torch.zeros_like(noisy[:, 0])
        perturbed = (self._of_entries(nothing, left, exact) + 0.5 * squared).sum(1) - math.log(self.probability)
        undefended = _nats(nothing, exact).sum(1) - math.log1p(-min(self.probability, 0.5))
        return torch.where(plain, undefended, perturbed), torch.where(plain, 0.0, 0.5 * squared.square().sum(1))

    def as_noise(self, left: Tensor) -> Tensor:
        # What was pruned is small: to take it for what it became is near enough among other images.
        left = left.flatten(1)
        plain = (left != 0).all(1) if self.probability < 1 else torch.zeros_like(left[:, 0], dtype=torch.bool)
        share = torch.where(self._more(left)[:, 0], 1.0, 0.5) * (left != 0).double().mean(1)
        return torch.where(plain, 0.0, share * self.std.double().square())

    def _of_entries(self, away: Tensor, left: Tensor, exact: Tensor) -> Tensor:
        """Of each entry that is so far from what was kept, in nats."""
        noisy = _nats(away, (exact.square() + self.std**2).sqrt())
        clean = _nats(away, exact)
        either = -torch.logaddexp(-noisy, -clean) + math.log(2)
        return torch.where(left == 0, clean, torch.where(self._more(left), noisy, either))

    def _noisy(self, left: Tensor) -> Tensor:
        return (left != 0) & self._more(left)

    def _more(self, left: Tensor) -> Tensor:
        """Whether more entries are not zero than were kept, [N, 1]."""
        return (left != 0).sum(1, keepdim=True) > self.count

    def _exact(self, left: Tensor) -> Tensor:
        """The standard deviation that rounding is taken for, [N, 1]."""
        return _ROUNDING * left.square().mean(1, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny / _ROUNDING**2).sqrt()


def _nats(away: Tensor, std: Tensor) -> Tensor:
    return 0.5 * (away / std).square() + std.log()


@dataclass(frozen=True)
class Outpost(Defense):
    """With a probability that falls with the rounds, prune each tensor and add noise where the gradient matters most (Wang, Hugh
    and Li, INFOCOM 2023).

    With probability 1 / (1 + decay t), t the steps of the training before: the share ``p`` of smallest magnitude of each tensor
    becomes zero, and to those entries whose empirical Fisher information is among the share ``perturbed`` of the largest of the
    whole model Gaussian noise is added. Its standard deviation is ``scale`` times the variance of the tensor's weights, at most 1,
    by which the paper measures the risk. The Fisher information of one step is the square of the gradient before it is pruned.

    The values are those of the authors' code, which counts t within the local epochs of a round, takes the mean of the squares over
    a tensor's first axis, and in its present state returns the gradients as they were. The strength for a curve is ``decay``, over
    0, 0.01, 0.125.

    Args:
        decay: of the probability with the steps, >= 0; with 0 every step is defended.
        p: share of the entries of each tensor that is set to zero, 0 <= p < 1.
        perturbed: share of the entries of the model that noise is added to, 0 <= perturbed <= 1.
        scale: of the noise, >= 0.
    """

    name: ClassVar[str] = "outpost"
    summary: ClassVar[str] = "pruning, and noise by the spread of the weights where the gradient is large, in ever fewer steps"
    paper: ClassVar[str] = "Wang, Hugh and Li, INFOCOM 2023"

    decay: float = 0.125
    p: float = 0.8
    perturbed: float = 0.4
    scale: float = 0.8

    def __post_init__(self) -> None:
        checks.number("decay", self.decay, at_least=0)
        checks.number("p", self.p, at_least=0, below=1)
        checks.number("perturbed", self.perturbed, at_least=0, at_most=1)
        checks.number("scale", self.scale, at_least=0)

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        device = step.generator.device
        defended = torch.rand((), generator=step.generator, device=device) < self._probability(step.round)
        squares = torch.cat([g.flatten().square() for g in gradients.values()])
        count = round(self.perturbed * len(squares))
        # All above the largest that is not among them, so that the device alone compares.
        edge = squares.topk(count, sorted=False).values.amin() if count else squares.new_full((), math.inf)
        stds = self._stds(step.module)
        changed = {name: self._pruned(g) + self._noise(g, stds[name], step.generator) * (g.square() >= edge)
                   for name, g in gradients.items()}
        return {name: torch.where(defended.to(g.device), changed[name], g) for name, g in gradients.items()}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        stds = self._stds(facts.module)
        probability = self._probability(facts.round)
        told: dict[str, Release] = {}
        for name, parameter in facts.module.named_parameters():
            if name in shared:
                kept = self._kept(parameter.numel())
                perturbed = Release((Perturbed(kept, stds[name], probability),))
                # That all were pruned is said apart where it is known, so that comparisons by the cosine prune candidates too
                # (LeNet, CIFAR-10, untrained, 8 victims, 200 iterations: ASR 0.75, 0 without).
                told[name] = Release((Kept(kept),)).then(perturbed) if probability == 1 and kept < parameter.numel() else perturbed
        return told

    def _probability(self, round_: int) -> float:
        return 1 / (1 + self.decay * round_)

    def _stds(self, module: nn.Module) -> dict[str, Tensor]:
        return {name: self.scale * p.detach().var(correction=min(1, p.numel() - 1)).clamp_max(1)
                for name, p in module.named_parameters()}

    def _noise(self, like: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
        return torch.empty_like(like).normal_(generator=generator) * std.to(like.dtype)

    def _kept(self, entries: int) -> int:
        # The small term keeps a product such as 0.7 * 10 = 6.999... from losing an entry to rounding.
        return entries - int(self.p * entries + 1e-9)

    def _pruned(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten()
        count = len(flat) - self._kept(len(flat))
        return without_smallest(flat, count).view_as(gradient) if count else gradient
