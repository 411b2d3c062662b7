"""Noise where an entry of the gradient tells much of the images and adds little to the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import OwnLikelihood
from defenses.step import Batch, Facts, Gradients, Step
from defenses.support import checks
from defenses.support.replaced import Replaced

#: Entries smaller than this are taken to be so large, and no ratio is taken for larger than this, as in the authors' code.
_SMALLEST, _LARGEST = 1e-8, 1e6
#: What rounding changes of an entry, relative to it.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Reciprocal(OwnLikelihood):
    """Gaussian noise was added whose variance is in inverse proportion to the size of each entry of a tensor; the factor is not
    known, and is taken for the likeliest.

    The variance also grows with the derivative of the entry by the images, which is taken to be the same for all of a tensor.

    Args:
        std: root of the mean variance over the entries of the model.
    """

    exact: ClassVar[bool] = False

    std: float

    def surprise(self, own: Tensor, left: Tensor) -> Tensor:
        own, left = own.flatten(1), left.flatten(1)
        # The weights follow the candidate and have no derivative, which would draw entries away from zero (LeNet, CIFAR-10,
        # untrained, 8 victims, std of 0.1, 200 iterations of matching: SSIM 0.07 with it, 0.14 without).
        return _nats(own.detach().abs(), own - left)

    def typical(self, left: Tensor) -> tuple[Tensor, Tensor]:
        # The factor is not told by what was shared; what is said to be expected is the least, noise of the size of rounding.
        left = left.flatten(1)
        return _nats(left.abs(), _ROUNDING * left), left.new_full((len(left),), left.shape[1] / 2)

    def as_noise(self, left: Tensor) -> float | None:
        return self.std**2


def _nats(sizes: Tensor, away: Tensor) -> Tensor:
    """Minus the logarithm of the likelihood of noise [N, n] under the likeliest factor, up to a constant."""
    sizes = sizes.clamp_min(_SMALLEST)
    factor = (away.square() * sizes).mean(1).clamp_min(torch.finfo(sizes.dtype).tiny)
    return 0.5 * (sizes.shape[1] * factor.log() - sizes.log().sum(1))


@dataclass(frozen=True)
class OptimalNoise(Defense):
    """Add independent Gaussian noise to each entry, of a variance in proportion to the norm of the entry's derivative by the images
    over the entry's size (Chen, Gürsoy and Lei, "Optimal Defenses Against Gradient Reconstruction Attacks", 2024).

    That variance has the least sum of g_i^2 variance_i, by which a step suffers, for a given sum of |dg_i/dx|^2 / variance_i, the
    information of a Cramér-Rao bound on reconstructions. It is scaled to a mean of std^2 over the entries of the model. Followed is
    the authors' code: the derivative's norm is estimated on random directions, sizes are 1e-8 at the least and ratios 1e6 at most.
    The variances are not public, as they depend on the images. The strength for a curve is ``std``, over 0.01, 0.1, 1.

    A step takes two gradients, a second derivative, and a derivative of that for each direction.

    Args:
        std: root of the mean variance, absolute, >= 0.
        probes: random directions, >= 1.
    """

    name: ClassVar[str] = "optimal-noise"
    summary: ClassVar[str] = "noise on each entry by how much it changes with the images, relative to its size"
    paper: ClassVar[str] = "Chen, Gürsoy and Lei, 2024"
    acts: ClassVar[str] = "step"

    std: float = 0.1
    probes: int = 10

    def __post_init__(self) -> None:
        checks.number("std", self.std, at_least=0)
        checks.whole("probes", self.probes, at_least=1)

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        if self.std == 0:
            return gradients
        squares = self._sensitivities(step)
        ratios = {name: (squares[name].sqrt() / g.abs().clamp_min(_SMALLEST)).clamp_max(_LARGEST) for name, g in gradients.items()}
        mean = torch.cat([ratio.flatten() for ratio in ratios.values()]).mean().clamp_min(torch.finfo(torch.float32).tiny)
        return {name: g + torch.empty_like(g).normal_(generator=step.generator) * (self.std * (ratios[name] / mean).sqrt())
                for name, g in gradients.items()}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return dict.fromkeys(shared, Release((Reciprocal(self.std),)) if self.std > 0 else Release())

    def _sensitivities(self, step: Step) -> Gradients:
        """Of each entry of the gradient the squared norm of its derivative by the images, estimated on random directions."""
        # Running statistics of batch norm change with each pass.
        module = Replaced(step.module, {name: buffer.clone() for name, buffer in step.module.named_buffers()})
        parameters = {name: p for name, p in step.module.named_parameters() if p.requires_grad}
        images = step.batch.images.detach().requires_grad_()
        loss = step.losses(Batch(images, step.batch.targets), module).mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)
        # The derivative by the images along a direction is that, by the weights of the entries, of what the images get of them.
        weights = [torch.zeros_like(g).requires_grad_() for g in gradients]
        linear, = torch.autograd.grad(gradients, images, weights, create_graph=True, materialize_grads=True)
        found = [torch.zeros_like(g) for g in gradients]
        for _ in range(self.probes):
            direction = torch.empty_like(images).normal_(generator=step.generator)
            along = torch.autograd.grad(linear, weights, direction, retain_graph=True, materialize_grads=True)
            found = [squares + derivative.square() / self.probes for squares, derivative in zip(found, along, strict=True)]
        return {name: squares.detach() for name, squares in zip(parameters, found, strict=True)}
