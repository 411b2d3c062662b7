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

    Logits, where there are some, are moved by Adam itself, with the same step size. What is found is where it ends.
    """

    def __init__(self, images: Tensor, logits: Tensor | None, bounds: tuple[Tensor, Tensor]) -> None:
        self.images, self.logits = images, logits
        self._bounds = [bound.expand(images.shape[1:]).contiguous() for bound in bounds]
        self._objective = images.new_full((len(images),), torch.nan)
        self._first, self._second = torch.zeros_like(images), torch.zeros_like(images)
        self._of_logits = [] if logits is None else [torch.zeros_like(logits), torch.zeros_like(logits)]
        # float64 as in torch.optim.Adam, which computes the corrections of the bias on the host.
        self._steps = torch.zeros(len(images), dtype=torch.float64, device=images.device)

    def look(self, objective: Tensor) -> None:
        self._objective = objective

    def found(self, slot: int) -> tuple[Tensor, Tensor | None, Tensor]:
        return self.images[slot], None if self.logits is None else self.logits[slot], self._objective[slot]

    def step(self, derivative: Tensor, by_logits: Tensor | None, sizes: Tensor) -> None:
        # A derivative that is not finite (of a training that diverged) moves nothing, rather than spoil the images.
        self._steps += 1
        _adam(self.images, derivative.nan_to_num(nan=0.0).sign_(), self._first, self._second, self._steps, sizes)
        if self.logits is not None:
            assert by_logits is not None
            first, second = self._of_logits
            _adam(self.logits, by_logits.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), first, second, self._steps, sizes)
        torch.clamp(self.images, *self._bounds, out=self.images)

    def restart(self, slot: int, images: Tensor, logits: Tensor | None) -> None:
        self.images[slot] = images
        if self.logits is not None and logits is not None:
            self.logits[slot] = logits
        for state in (self._first, self._second, *self._of_logits, self._steps):
            state[slot] = 0

    def keep(self, slots: list[int]) -> None:
        index = upload(slots, self.images.device)
        self.images, self._first, self._second, self._steps = (
            state[index] for state in (self.images, self._first, self._second, self._steps))
        if self.logits is not None:
            self.logits, *self._of_logits = (state[index] for state in (self.logits, *self._of_logits))


def _adam(values: Tensor, derivative: Tensor, first: Tensor, second: Tensor, steps: Tensor, sizes: Tensor) -> None:
    """One step of Adam of each slot, in place; ``steps`` [S] counts this one, ``sizes`` [S] are those of the steps."""
    first.lerp_(derivative, 1 - _BETAS[0])
    second.mul_(_BETAS[1]).addcmul_(derivative, derivative, value=1 - _BETAS[1])
    corrections = [1 - beta**steps for beta in _BETAS]
    # step * first / (sqrt(second) / root + epsilon), with numerator and denominator multiplied by the root.
    root = corrections[1].sqrt()
    step, epsilon = (number.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)
                     for number in (sizes * root / corrections[0], _EPSILON * root))
    values.addcdiv_(first * step, second.sqrt().add_(epsilon), value=-1)
