"""Adam on the signs of derivatives, with a count of steps and a step size for each victim."""

from __future__ import annotations

import torch
from torch import Tensor

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class SignedAdam:
    """Moves images [S, ...] by Adam (Kingma & Ba, 2015) on the sign of their derivative (Geiping et al., 2020).

    It is torch.optim.Adam with its default coefficients, but that each entry of the first dimension has its own count of steps, so
    that a victim can begin while others are under way.

    Args:
        images: where to begin, changed in place.
        lowest, highest: bounds that the images are kept within, broadcast to them.
    """

    def __init__(self, images: Tensor, lowest: Tensor, highest: Tensor) -> None:
        self.images = images
        self._bounds = [bound.expand(images.shape[1:]).contiguous() for bound in (lowest, highest)]
        self._first, self._second = torch.zeros_like(images), torch.zeros_like(images)
        # float64 as in torch.optim.Adam, which computes the corrections of the bias on the host.
        self._steps = torch.zeros(len(images), 1, 1, 1, 1, dtype=torch.float64, device=images.device)

    def step(self, derivative: Tensor, sizes: Tensor) -> None:
        """One iteration; ``sizes`` [S] in float64."""
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

    def restart(self, place: int, image: Tensor) -> None:
        """Begin anew with another image in one place."""
        self.images[place] = image
        for state in (self._first, self._second, self._steps):
            state[place] = 0

    def keep(self, places: Tensor) -> None:
        """Go on with some of the images only."""
        self.images, self._first, self._second, self._steps = (
            state[places] for state in (self.images, self._first, self._second, self._steps))
