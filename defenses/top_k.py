"""Top-k sparsification with error feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import Kept, OwnLikelihood, Unknown
from defenses.step import Facts, Gradients, State, Step
from defenses.support import checks
from defenses.support.smallest import without_smallest
from defenses.support.tabulated import Tabulated

#: Standard deviations that what is remembered of an entry may have, relative to the smallest entry that was shared.
_SCALES = tuple(2.0**-i for i in range(12))
#: From here on the density is that of the widest scale alone, and this the logarithm of its factor.
_WIDE, _WIDEST = 8.0, -math.log(len(_SCALES) * math.sqrt(2 * math.pi))
#: What is further out remains below with a probability of less than float32 has numbers for, and counts as what is here.
_FAR = 13.5


@dataclass(frozen=True)
class TopK(Defense):
    """Share the entries of largest magnitude of the gradient plus what was left over before, and remember the rest (Stich et al.,
    NeurIPS 2018, algorithm 1; Lin et al., ICLR 2018, section 3).

    The share is taken of each parameter's tensor on its own, as Lin et al. do, and is at least one entry; Stich et al. take it of
    the whole vector. Gradients are remembered rather than updates, which comes to the same at a constant step size. The momentum
    correction, clipping and warm-up of Lin et al. belong to the optimizer and are not part of it.

    A board sweeps ``share`` over 0.001 (Lin et al.), 0.01 and 0.1. In the first round the memory is empty, and what is shared is a
    pruned gradient. Later entries are those of gradient and memory together, see :class:`Remembered`. An attacker here sees the
    rounds that were observed, each of which begins with the same memory, and not the training before: between them nothing
    telescopes. A server that kept all that a client ever sent knows of each entry when its memory was last emptied, and so more.

    Args:
        share: of the entries of each tensor that are shared, > 0, at most 1.
    """

    name: ClassVar[str] = "top-k"
    summary: ClassVar[str] = "the largest entries of gradient and memory are shared, what is left over is remembered"
    paper: ClassVar[str] = "Stich et al., NeurIPS 2018"

    share: float = 0.001

    def __post_init__(self) -> None:
        checks.number("share", self.share, above=0, at_most=1)

    def initial_state(self, module: nn.Module) -> State | None:
        return {"memory": {name: torch.zeros_like(p) for name, p in module.named_parameters() if p.requires_grad}}

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        memory, shared = step.state["memory"], {}
        for name, g in gradients.items():
            due = g + memory[name]
            shared[name] = self._largest(due)
            memory[name] = due - shared[name]
        return shared

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        entries = {name: p.numel() for name, p in facts.module.named_parameters()}
        return {name: self._told(entries[name], g, facts.round) for name, g in shared.items()}

    def _told(self, entries: int, shared: Tensor | None, round_: int) -> Release:
        count = self._count(entries)
        if count == entries:
            return Release()
        if round_ == 0:
            return Release((Kept.largest(count, shared),))
        return Release((Unknown("what follows hides which entries were shared") if shared is None else Remembered(),))

    def _count(self, entries: int) -> int:
        # The small term keeps a product such as 0.1 * 30 = 3.0000000000000004 from gaining an entry by rounding.
        return max(1, math.ceil(self.share * entries - 1e-9))

    def _largest(self, due: Tensor) -> Tensor:
        hidden = due.numel() - self._count(due.numel())
        return without_smallest(due.flatten(), hidden).view_as(due) if hidden else due


@dataclass(frozen=True)
class Remembered(OwnLikelihood):
    """The largest entries of the gradient plus a memory that nobody else knows are told, and that no other is larger.

    What is remembered of an entry is taken for Gaussian noise whose standard deviation is anything from the smallest entry that was
    shared down to 2^-11 of it, all halvings equally likely (a prior without a scale: entries differ in how long they were not
    shared). Shared entries count by its density, the others by the probability that they remained below.

    Of 32 victims among 100 candidates, LeNet on CIFAR-10 after four epochs of such a training, it finds 0.62 with a share of 0.001
    and 0.66 with 0.01 at a mean rank of 2.4 and 0.9; shared entries alone with one scale a tensor that is profiled out 0.69 and
    0.50 at 4.6 and 2.4, one Gaussian of half the standard deviation that a Gaussian would have with such a tail 0.22 and 0.66.
    """

    exact: ClassVar[bool] = False

    def surprise(self, own: Tensor, left: Tensor) -> Tensor:
        own, left = own.flatten(1), left.flatten(1)
        edge = _edge(left)[:, None]
        away = ((own - left) / edge).abs()
        density = torch.where(away < _WIDE, _DENSITY(away), _WIDEST - 0.5 * away.square())
        return -torch.where(left != 0, density - edge.log(), _MASS(own / edge)).sum(1)

    def typical(self, left: Tensor) -> tuple[Tensor, Tensor]:
        # That of the shared entries: that others remain below is no surprise at the original.
        left = left.flatten(1)
        mean, variance = _moments()
        count = (left != 0).sum(1).to(left.dtype)
        return count * (_edge(left).log().nan_to_num(posinf=0) + mean), count * variance

    def seen(self, left: Tensor) -> Tensor | None:
        return left != 0

    def as_noise(self, left: Tensor) -> float | None:
        edges = _edge(left.flatten(1))
        known = edges[edges.isfinite()]
        return float(known.square().mean()) * sum(s**2 for s in _SCALES) / len(_SCALES) if len(known) else None


def _edge(left: Tensor) -> Tensor:
    """The smallest entry that was shared, [N]; infinite where none was."""
    return torch.where(left != 0, left.abs(), math.inf).amin(1)


def _log_density(x: Tensor) -> Tensor:
    """Of what is remembered, in units of the smallest entry that was shared."""
    logs = [-0.5 * (x / s).square() - math.log(s * math.sqrt(2 * math.pi)) for s in _SCALES]
    return torch.stack(logs).logsumexp(0) - math.log(len(logs))


def _log_mass(x: Tensor) -> Tensor:
    """Of what is remembered, that an entry x of the gradient remains between -1 and 1 with it."""
    # Of complements, so that the mass of what is far out keeps its digits.
    x, units = x.abs(), [math.sqrt(2) * s for s in _SCALES]
    masses = [0.5 * (torch.erfc((x - 1) / unit) - torch.erfc((x + 1) / unit)) for unit in units]
    return torch.stack(masses).mean(0).clamp_min(torch.finfo(x.dtype).tiny).log()


@cache
def _moments() -> tuple[float, float]:
    """Mean and variance of minus the logarithm of the density, by the midpoint rule."""
    t = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weights = (-0.5 * t.square()).exp()
    weights = weights / weights.sum() / len(_SCALES)
    surprises = [-_log_density(s * t) for s in _SCALES]
    mean = sum(float(weights @ of) for of in surprises)
    return mean, sum(float(weights @ of.square()) for of in surprises) - mean**2


# Made here and not when first used, which may be within a transform of torch.func.
_DENSITY = Tabulated(_log_density, centre=0.0, finest=_SCALES[-1], end=_WIDE)
_MASS = Tabulated(_log_mass, centre=1.0, finest=_SCALES[-1], end=_FAR)
