"""Soteria: the representation in the gradient of one linear layer is pruned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from defenses.base import Defense
from defenses.evaluating import evaluating
from defenses.release import Release
from defenses.stages import Kept, Unknown
from defenses.step import Facts, Gradients, Step
from defenses.support import checks
from defenses.support.last_linear import last_linear
from defenses.support.watching import watching

#: Probes of an image in a batch at least: of fewer the reciprocal of the norm has no variance.
_FEWEST = 4


@dataclass(frozen=True)
class Soteria(Defense):
    """Zero, in the gradient of one linear layer's weight, the columns of those features r_i that would move a reconstruction most
    (Sun et al., CVPR 2021: the representation is perturbed where |r_i| / |dr_i / dx| is largest, an l0 constraint).

    The gradient of that weight is a sum of outer products with the representation r, so that a feature that is taken for zero is a
    column that is zero. In a batch the ratios of all images are added up, and one set of columns is zeroed, as the authors' code
    does; r is what the model computes in evaluation mode. That code takes the smallest |dr_i / dx| / (r_i + 0.1) instead, whose
    constant is not in the paper; no other difference is made to it here.

    |dr_i / dx| of every feature takes a backward pass each (768 for LeNet on CIFAR-10). With ``probes`` its square is the mean over
    standard normal v of (dr_i / dx v)^2, which has that expectation and, of k probes, a relative standard deviation of sqrt(2 / k):
    with 16 of them 18 % of the norm, in forward mode, for all features at once. In a batch errors average out, so that each of B
    images has probes / B of them, but no fewer than four. Of the columns that the exact norms zero, 16 probes zero 77 % for a
    single image, and 4 probes 90 % for a batch of 64 (LeNet, untrained, percentile 40). On a CPU a step then takes the time of
    three to four without the defense, instead of 650 for a batch of 64 and 1,000 for a single image.

    A board sweeps ``percentile`` over 1, 40 and 60, and further towards 100. What a server sees is which columns are zero, and the
    others exactly; the gradient of the layer before tells the features that are hidden (:mod:`attacks.reading.filling`). Which
    these are tells something more of the image, which no attack here uses. Behind a ReLU those that are zero are never among them:
    of 768 features of ``cnn``, more than half of which are zero, 40 % are nearly all of the others.

    Args:
        percentile: of the ratio, 0 to 100; features beyond it are zeroed, as numpy's percentile counts them.
        layer: name of the linear layer; empty for the last, whose input is the representation of the paper's networks.
        probes: random directions in which derivatives of a single image are taken, or 0 for the exact ones.
    """

    name: ClassVar[str] = "soteria"
    summary: ClassVar[str] = "columns of a linear layer's gradient are zeroed where a feature moves the reconstruction most"
    paper: ClassVar[str] = "Sun et al., CVPR 2021"
    acts: ClassVar[str] = "step"

    percentile: float = 40
    layer: str = ""
    probes: int = 16

    def __post_init__(self) -> None:
        checks.number("percentile", self.percentile, at_least=0, at_most=100)
        checks.whole("probes", self.probes, at_least=0)
        if not isinstance(self.layer, str):
            raise ValueError(f"layer must be the name of a linear layer, got {self.layer!r}")

    def extend_model(self, module: nn.Module) -> nn.Module:
        # Only to say early that there is no such layer.
        self._place(module)
        return module

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        place = self._place(step.module)
        weight = _weight(place)
        if self.percentile == 0 or weight not in gradients:
            return gradients
        lost = self._ratios(step, place).topk(self._count(gradients[weight].shape[1])).indices
        return {**gradients, weight: gradients[weight].index_fill(1, lost, 0.0)}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        weight = _weight(self._place(facts.module))
        told = dict.fromkeys(shared, Release())
        if self.percentile > 0 and weight in told:
            told[weight] = self._told(shared[weight])
        return told

    def _told(self, shared: Tensor | None) -> Release:
        if shared is None:
            return Release((Unknown("what follows hides which columns were zeroed"),))
        rows, columns = shared.shape[1:]
        mask = (shared != 0).any(1, keepdim=True).expand_as(shared)
        return Release((Kept(rows * (columns - self._count(columns)), mask),))

    def _count(self, features: int) -> int:
        return math.ceil(self.percentile / 100 * (features - 1) - 1e-9)

    def _place(self, module: nn.Module) -> str:
        if self.layer:
            found = dict(module.named_modules()).get(self.layer)
            if not isinstance(found, nn.Linear):
                raise ValueError(f"soteria: {self.layer!r} is not a linear layer of the model")
            return self.layer
        return last_linear(module)[0]

    def _ratios(self, step: Step, place: str) -> Tensor:
        """The sum over the batch of |r_i| / |dr_i / dx|, [features]; a feature that is zero has nothing to be zeroed."""
        images = step.batch.images.detach()
        read = _Representation(step.module, place)
        with evaluating(step.module):
            if self.probes:
                shape = (min(self.probes, max(_FEWEST, self.probes // len(images))), *images.shape)
                probes = torch.empty(shape, dtype=images.dtype, device=images.device).normal_(generator=step.generator)
                with torch.no_grad():
                    r, along = read(images), vmap(lambda v: jvp(read, (images,), (v,))[1])(probes)
                norms = along.square().mean(0).sqrt()
            else:
                r, norms = _exactly(read, images)
        return torch.where(r == 0, 0.0, r.abs() / norms).flatten(0, -2).sum(0)


@dataclass(frozen=True)
class _Representation:
    """What enters a layer, of images."""

    module: nn.Module
    place: str

    def __call__(self, images: Tensor) -> Tensor:
        with watching({self.place: self.module.get_submodule(self.place)}) as entered:
            self.module(images)
        return entered[self.place]


def _exactly(read: _Representation, images: Tensor) -> tuple[Tensor, Tensor]:
    """The features, and the norms of their derivatives, by a backward pass for each."""
    with torch.enable_grad():
        x = images.clone().requires_grad_()
        r = read(x)
        sums = r.flatten(1).sum(0).unbind()
        norms = [torch.autograd.grad(of_all, x, retain_graph=True)[0].flatten(1).norm(dim=1) for of_all in sums]
    return r.detach(), torch.stack(norms, 1).view(r.shape)


def _weight(place: str) -> str:
    return f"{place}.weight" if place else "weight"
