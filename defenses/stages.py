"""What can happen to a gradient before it is shared: the stages of a :class:`defenses.release.Release`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

DISTRIBUTIONS = ("gaussian", "laplacian")


class Bounds(NamedTuple):
    """Least and largest possible value of each entry."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Stage:
    """One thing that happened to a gradient [N, *parameter.shape] of N victims.

    Attributes:
        elementwise: whether some of a parameter's entries can go through it without the others.
        across: of the energy of a parameter's gradient, the share that is not along what left the stage, where that has another
            length.
        spares_rank_one: whether a gradient that is a matrix of rank one leaves it as it entered, such as that of a linear layer by
            one image.
    """

    elementwise: ClassVar[bool] = True
    across: ClassVar[float] = 0.0
    spares_rank_one: ClassVar[bool] = False

    @property
    def loses_scale(self) -> bool:
        """Whether it leaves the length of a parameter's gradient unknown, and no more than that of its direction."""
        return False

    def shown(self, left: Tensor) -> Callable[[Tensor], Tensor] | None:
        """The part of gradients [K, *parameter.shape] in which what left the stage, as many or one, is what entered it, as a
        function of them: an orthogonal projection. None, the default, where it is all or none is told. Gradients of many images
        are compared in it, and layers read backwards by it."""
        return None

    def passed(self, gradient: Tensor) -> Tensor:
        """What a candidate's own gradient becomes; differentiable where that is of use."""
        raise NotImplementedError

    def before(self, after: Bounds) -> Bounds:
        """What entered the stage, from what left it."""
        raise NotImplementedError

    def summed(self, clients: int) -> Stage:
        """What happened to the mean over clients to whose gradients this happened one by one."""
        return Unknown("what each client made of its gradient does not follow from the sum")


@dataclass(frozen=True)
class Kept(Stage):
    """The entries of smallest magnitude became zero; a share of each victim's tensor was kept.

    Args:
        count: how many entries of each tensor were kept.
        mask: [N, *shape], true where an entry was kept; None where what follows hides it.
        threshold: [N], no entry that became zero was larger in magnitude; None where it is not known. Where there is a mask and no
            threshold, something else than the magnitude decided.
    """

    count: int
    mask: Tensor | None = None
    threshold: Tensor | None = None

    @classmethod
    def largest(cls, count: int, shared: Tensor | None) -> Kept:
        """Of the entries of largest magnitude, from what was shared [N, *shape]; None where that is not seen.

        An entry that was zero before is not told from one that became zero; it lies within the same bounds.
        """
        if shared is None:
            return cls(count)
        mask = shared != 0
        return cls(count, mask, torch.where(mask, shared.abs(), math.inf).flatten(1).amin(1))

    def shown(self, left: Tensor) -> Callable[[Tensor], Tensor] | None:
        if self.mask is None:
            return None
        mask = left != 0
        return lambda gradient: gradient * mask

    def passed(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        kept = flat.detach().abs().topk(self.count, sorted=False).indices
        return torch.where(torch.zeros_like(flat, dtype=torch.bool).scatter(1, kept, True), flat, 0.0).view_as(gradient)

    def summed(self, clients: int) -> Stage:
        return Near()  # what is small was left out

    def before(self, after: Bounds) -> Bounds:
        zeroed = (after.low <= 0) & (after.high >= 0)
        if self.mask is not None:
            zeroed = ~self.mask
        most = after.low.new_full((len(after.low),), math.inf) if self.threshold is None else self.threshold
        most = _per_victim(most, after.low)
        return Bounds(torch.where(zeroed, -most, after.low), torch.where(zeroed, most, after.high))


@dataclass(frozen=True)
class Intervals(Stage):
    """Each entry was replaced by a number near it, as quantisation does.

    Args:
        below, above: the entry lay at most so far below and above what it became, >= 0.
        function: what a candidate's gradient becomes; None where that is random or not said, and the gradient is taken as it is.
    """

    below: float
    above: float
    function: Callable[[Tensor], Tensor] | None = None

    def passed(self, gradient: Tensor) -> Tensor:
        if self.function is None:
            return gradient
        return gradient + (self.function(gradient.detach()) - gradient.detach())  # its derivative is taken for one

    def summed(self, clients: int) -> Stage:
        return Noise((self.below + self.above) ** 2 / 12 / clients) if self.below + self.above else Near()

    def before(self, after: Bounds) -> Bounds:
        return Bounds(after.low - self.below, after.high + self.above)


@dataclass(frozen=True)
class Sign(Stage):
    """Each entry became its sign: -1, 0 or 1."""

    across: ClassVar[float] = 1 - 2 / math.pi  # of Gaussian entries

    @property
    def loses_scale(self) -> bool:
        return True

    def passed(self, gradient: Tensor) -> Tensor:
        return gradient + (gradient.detach().sign() - gradient.detach())  # its derivative is taken for one

    def summed(self, clients: int) -> Stage:
        return Near(scale_is_lost=True)

    def surprise(self, own: Tensor, left: Tensor) -> Tensor:
        """As that of a stage with its own likelihood, for a search: as if the signs were those of the gradient with logistic noise,
        of an entry g of a parameter with root mean square r of 0.2 sqrt(|g| r), so that entries of the wrong sign draw, small ones
        too, and the scale does not matter. The sign of an entry that is far from zero says little of it, which the cosine with the
        signs does not know (LeNet, CIFAR-10, untrained, 24 victims, 300 iterations, total variation 0.1 and 0.05: SSIM 0.48 and
        0.51; under noise of 0.1 r for all entries 0.33 and, at the best of five weights, 0.44; by the cosine 0.19)."""
        own, left = own.flatten(1), left.flatten(1)
        size = own.square().mean(1, keepdim=True).clamp_min(torch.finfo(own.dtype).tiny).sqrt()
        noise = (0.2 * size * (own.abs() / size).clamp_min(1e-6).sqrt()).detach()
        return torch.nn.functional.softplus(torch.where(left == 0, own.abs(), -left * own) / noise).sum(1)

    def typical(self, left: Tensor) -> tuple[Tensor, Tensor]:
        """The signs of the original are told without chance."""
        nothing = left.new_zeros(len(left))
        return nothing, nothing

    def before(self, after: Bounds) -> Bounds:
        unknown = torch.full_like(after.low, math.inf)
        zero = (after.low == 0) & (after.high == 0)
        return Bounds((-unknown).masked_fill((after.low > 0) | zero, 0), unknown.masked_fill((after.high < 0) | zero, 0))


@dataclass(frozen=True)
class Scaled(Stage):
    """Every entry was multiplied by a known number, not zero."""

    factor: float

    def passed(self, gradient: Tensor) -> Tensor:
        return self.factor * gradient

    def summed(self, clients: int) -> Stage:
        return self

    def before(self, after: Bounds) -> Bounds:
        ends = after.low / self.factor, after.high / self.factor
        return Bounds(torch.minimum(*ends), torch.maximum(*ends))


@dataclass(frozen=True)
class Clipped(Stage):
    """The gradient, over all ``names`` together, was scaled down to a norm where it was longer (Abadi et al., 2016).

    Args:
        norm: the largest, > 0.
        names: of the parameters that the norm is taken over.
        images: where more than one, so many gradients were clipped by themselves before they were averaged: that of each image, or,
            under a sum over fewer clients than there are images, that of each client.
        steps: where more than one, this was done in each of so many local steps, before their mean was taken.
    """

    elementwise: ClassVar[bool] = False

    norm: float
    names: tuple[str, ...]
    images: int = 1
    steps: int = 1

    @property
    def alone(self) -> bool:
        """Whether the norm is that of one parameter by itself."""
        return len(self.names) == 1 and self.images == self.steps == 1

    @property
    def loses_scale(self) -> bool:
        return self.alone

    def passed(self, gradient: Tensor) -> Tensor:
        """Of a parameter that was clipped by itself; of several the factor follows from all."""
        return _per_victim(self.factor(gradient.flatten(1).square().sum(1)), gradient) * gradient

    def factor(self, squared: Tensor) -> Tensor:
        """What gradients of these squared norms [N] are multiplied by, [N]."""
        return (self.norm / squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()).clamp_max(1.0)

    def summed(self, clients: int) -> Stage:
        return replace(self, images=self.images * clients)

    def before(self, after: Bounds) -> Bounds:
        # Longer or as it is, in the same direction; of an average of clipped ones not even that is known.
        low, high = after
        if self.images > 1 or self.steps > 1:
            return Bounds(torch.full_like(low, -math.inf), torch.full_like(high, math.inf))
        return Bounds(torch.where(low < 0, -math.inf, low), torch.where(high > 0, math.inf, high))


@dataclass(frozen=True)
class OwnLikelihood(Stage):
    """A stage that says by itself how likely what left it is: the base of what no other stage describes.

    What it knows of a victim it reads from what left it, so that it is the same for all. Its methods have to work under
    ``torch.func.vmap``.

    Attributes:
        exact: whether the likelihood is the exact one.
    """

    exact: ClassVar[bool] = True

    def surprise(self, own: Tensor, left: Tensor) -> Tensor:
        """Minus the logarithm of the likelihood of what left the stage, in nats, up to what is the same for all candidates: [N],
        differentiable by the candidates where that is of use.

        Args:
            own: candidates' gradients, as they enter the stage, [N, *parameter.shape].
            left: what left it, of the same shape, or [1, *parameter.shape].
        """
        raise NotImplementedError

    def typical(self, left: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the surprise at the original, [N] each."""
        nothing = left.new_zeros(len(left))
        return nothing, nothing

    def seen(self, left: Tensor) -> Tensor | None:
        """Where what left the stage is near to what entered it, [N, *parameter.shape]; None for everywhere. Attacks that do not go
        by likelihoods compare gradients there."""
        return None

    def as_noise(self, left: Tensor) -> float | Tensor | None:
        """The variance of an entry, where what left the stage is near to what entered it, as that of noise, [N] where it is not the
        same for all victims; None where it is not near. Gradients of many images are compared by it."""
        return None

    def before(self, after: Bounds) -> Bounds:
        return Bounds(torch.full_like(after.low, -math.inf), torch.full_like(after.high, math.inf))


@dataclass(frozen=True)
class Noise(Stage):
    """Independent noise of mean zero was added to each entry.

    Args:
        variance: of each entry, > 0.
        distribution: ``gaussian`` or ``laplacian``.
    """

    variance: float
    distribution: str = "gaussian"

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got {self.distribution!r}")
        if not 0 < self.variance < math.inf:
            raise ValueError(f"variance must be a number > 0, got {self.variance!r}")

    def summed(self, clients: int) -> Stage:
        return Noise(self.variance / clients)  # of many, Gaussian

    def before(self, after: Bounds) -> Bounds:
        return Bounds(torch.full_like(after.low, -math.inf), torch.full_like(after.high, math.inf))


@dataclass(frozen=True)
class Near(Stage):
    """Each entry became a number near it, or, where the scale was lost, near to some multiple of it; by how much it is off is not
    known."""

    scale_is_lost: bool = False

    @property
    def loses_scale(self) -> bool:
        return self.scale_is_lost

    def passed(self, gradient: Tensor) -> Tensor:
        return gradient

    def summed(self, clients: int) -> Stage:
        return self

    def before(self, after: Bounds) -> Bounds:
        return Bounds(torch.full_like(after.low, -math.inf), torch.full_like(after.high, math.inf))


@dataclass(frozen=True)
class Unknown(Stage):
    """Something that is not declared, or has no closed form."""

    reason: str = "the defense does not say what it discloses"

    def before(self, after: Bounds) -> Bounds:
        return Bounds(torch.full_like(after.low, -math.inf), torch.full_like(after.high, math.inf))


@dataclass(frozen=True)
class Projected(Unknown):
    """Where what was shared did not descend for the client, its own gradient was added until it did; it hardly ever happens, and
    does not show."""

    reason: str = "whether the gradient was projected does not show"


def _per_victim(values: Tensor, like: Tensor) -> Tensor:
    """Numbers [N] for a tensor [N, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))
