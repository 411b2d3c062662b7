"""Adam on the signs of derivatives, with a count of steps and a step size for each victim."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.search.optimizer import Optimizer
from defenses.support.upload import upload

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class SignedAdam(Optimizer):
    """Moves images [S, ...] by Adam (Kingma & Ba, 2015) on the sign of their derivative (Geiping et al., 2020), and what else is
    variable by Adam on its derivative, as Scheliga et al. (AAAI 2023) move dropout masks.

    It is torch.optim.Adam with its default coefficients, but that each entry of the first dimension has its own count of steps, so
    that a victim can begin while others are under way. What is found is where it ends.
    """

    def __init__(self, images: Tensor, others: Sequence[Tensor], bounds: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.images, self.others = images, list(others)
        self._bounds = [[bound.expand(part.shape[1:]).contiguous() for bound in own]
                        for part, own in zip((images, *others), bounds, strict=True)]
        self._objective = images.new_full((len(images),), torch.nan)
        self._first = [torch.zeros_like(part) for part in (images, *others)]
        self._second = [torch.zeros_like(part) for part in (images, *others)]
        # float64 as in torch.optim.Adam, which computes the corrections of the bias on the host.
        self._steps = torch.zeros(len(images), 1, 1, 1, 1, dtype=torch.float64, device=images.device)

    def look(self, objective: Tensor) -> None:
        self._objective = objective

    def found(self, slot: int) -> tuple[Tensor, list[Tensor], Tensor]:
        return self.images[slot], [other[slot] for other in self.others], self._objective[slot]

    def step(self, derivative: Tensor, by_others: Sequence[Tensor], sizes: Tensor) -> None:
        self._steps += 1
        corrections = [1 - beta**self._steps for beta in _BETAS]
        # step * first / (sqrt(second) / root + epsilon), with numerator and denominator multiplied by the root.
        root = corrections[1].sqrt()
        step = (sizes.view(-1, 1, 1, 1, 1) * root / corrections[0]).to(self.images.dtype)
        epsilon = (_EPSILON * root).to(self.images.dtype)
        # A derivative that is not finite (of a training that diverged) moves nothing, rather than spoil the images.
        towards = (derivative.nan_to_num(nan=0.0).sign_(), *(other.nan_to_num(0.0, 0.0, 0.0) for other in by_others))
        for values, own, first, second, bounds in zip((self.images, *self.others), towards, self._first, self._second,
                                                      self._bounds, strict=True):
            first.lerp_(own, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(own, own, value=1 - _BETAS[1])
            shape = (-1, *[1] * (values.dim() - 1))
            values.addcdiv_(first * step.view(shape), second.sqrt().add_(epsilon.view(shape)), value=-1)
            torch.clamp(values, *bounds, out=values)

    def restart(self, slot: int, images: Tensor, others: Sequence[Tensor]) -> None:
        for values, new in zip((self.images, *self.others), (images, *others), strict=True):
            values[slot] = new
        for state in (*self._first, *self._second, self._steps):
            state[slot] = 0

    def keep(self, slots: list[int]) -> None:
        index = upload(slots, self.images.device)
        self.images, self._steps = self.images[index], self._steps[index]
        self.others, self._first, self._second = ([state[index] for state in states]
                                                  for states in (self.others, self._first, self._second))
