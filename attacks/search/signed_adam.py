"""Adam on the signs of derivatives, with a count of steps and a step size for each victim."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.search.optimizer import Optimizer
from defenses.support.upload import upload

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class SignedAdam(Optimizer):
    """Moves images [S, ...] by Adam (Kingma & Ba, 2015) on the sign of their derivative (Geiping et al., 2020).

    It is torch.optim.Adam with its default coefficients, but that each entry of the first dimension has its own count of steps, so
    that a victim can begin while others are under way.

    It moves images alone; what is found is where it ends.
    """

    def __init__(self, images: Tensor, logits: Tensor | None, bounds: tuple[Tensor, Tensor]) -> None:
        if logits is not None:
            raise ValueError("signed Adam moves images alone, not labels")
        self.images, self.logits = images, None
        self._bounds = [bound.expand(images.shape[1:]).contiguous() for bound in bounds]
        self._objective = images.new_full((len(images),), torch.nan)
        self._first, self._second = torch.zeros_like(images), torch.zeros_like(images)
        # float64 as in torch.optim.Adam, which computes the corrections of the bias on the host.
        self._steps = torch.zeros(len(images), 1, 1, 1, 1, dtype=torch.float64, device=images.device)

    def look(self, objective: Tensor) -> None:
        self._objective = objective

    def found(self, slot: int) -> tuple[Tensor, Tensor | None, Tensor]:
        return self.images[slot], None, self._objective[slot]

    def step(self, derivative: Tensor, by_logits: Tensor | None, sizes: Tensor) -> None:
        # A derivative that is not finite (of a training that diverged) moves nothing, rather than spoil the images.
        sign = derivative.nan_to_num(nan=0.0).sign_()
        self._steps += 1
        self._first.lerp_(sign, 1 - _BETAS[0])
        self._second.mul_(_BETAS[1]).addcmul_(sign, sign, value=1 - _BETAS[1])
        corrections = [1 - beta**self._steps for beta in _BETAS]
        # step * first / (sqrt(second) / root + epsilon), with numerator and denominator multiplied by the root.
        root = corrections[1].sqrt()
        step = (sizes.view(-1, 1, 1, 1, 1) * root / corrections[0]).to(self.images.dtype)
        self.images.addcdiv_(self._first * step, self._second.sqrt().add_((_EPSILON * root).to(self.images.dtype)), value=-1)
        torch.clamp(self.images, *self._bounds, out=self.images)

    def restart(self, slot: int, images: Tensor, logits: Tensor | None) -> None:
        self.images[slot] = images
        for state in (self._first, self._second, self._steps):
            state[slot] = 0

    def keep(self, slots: list[int]) -> None:
        index = upload(slots, self.images.device)
        self.images, self._first, self._second, self._steps = (
            state[index] for state in (self.images, self._first, self._second, self._steps))
