"""L-BFGS for many victims at once, each with its own history."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.search.optimizer import Optimizer
from defenses.support.upload import upload

#: Pairs of differences that are kept.
_HISTORY = 20


class LBFGS(Optimizer):
    """Limited-memory BFGS without a line search (Liu & Nocedal, 1989), as torch.optim.LBFGS takes its steps, for each slot alone.

    The first step of a victim is 1 in the sum of its entries. Where torch caps it at the derivative and takes no pair whose product
    is below 1e-10, squared distances of a model with the usual initial weights, of about 1e-6, are not minimised at all (LeNet, 16
    CIFAR-10 victims, 300 iterations of iDLG: SSIM 0.02; so 0.81). Of all iterates that with the lowest objective is found, since
    without a line search the method can diverge. The bounds are left out, as the authors of the attacks that use it do.
    """

    def __init__(self, images: Tensor, logits: Tensor | None, bounds: tuple[Tensor, Tensor]) -> None:
        self._image_shape, self._entries = images.shape[1:], images[0].numel()
        self._logit_shape = None if logits is None else logits.shape[1:]
        self._points = _flat(images, logits)
        self._best, self._lowest = self._points.clone(), images.new_full((len(images),), torch.inf)
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change of the derivative, 1 / their product or 0
        self._scale = images.new_ones(len(images), 1)
        self._derivative = self._taken = torch.zeros_like(self._points)
        self._fresh = set(range(len(images)))  # slots that have not taken a step

    @property
    def images(self) -> Tensor:  # type: ignore[override]
        return self._split(self._points)[0]

    @property
    def logits(self) -> Tensor | None:  # type: ignore[override]
        return self._split(self._points)[1]

    def look(self, objective: Tensor) -> None:
        lower = objective < self._lowest  # false for what is not a number
        self._best = torch.where(lower[:, None], self._points, self._best)
        self._lowest = torch.where(lower, objective, self._lowest)

    def found(self, slot: int) -> tuple[Tensor, Tensor | None, Tensor]:
        images, logits = self._split(self._best[slot][None])
        return images[0], None if logits is None else logits[0], self._lowest[slot]

    def step(self, derivative: Tensor, by_logits: Tensor | None, sizes: Tensor) -> None:
        """Slots whose derivative is not finite stay where they are."""
        derivative, size = _flat(derivative, by_logits), sizes.to(derivative.dtype)[:, None]
        finite = torch.isfinite(derivative).all(1, keepdim=True)
        derivative = torch.where(finite, derivative, 0)
        fresh = torch.zeros_like(finite)
        if self._fresh:
            fresh[upload(sorted(self._fresh), fresh.device)] = True
        if len(self._fresh) < len(derivative):
            self._remember(derivative - self._derivative, fresh)
            taken = size * self._direction(derivative)
        else:
            taken = derivative
        if self._fresh:
            length = 1 / derivative.abs().sum(1, keepdim=True).clamp_min(torch.finfo(derivative.dtype).tiny)
            taken = torch.where(fresh, -size * length * derivative, taken)
        self._taken = torch.where(finite & torch.isfinite(taken).all(1, keepdim=True), taken, 0)
        self._derivative = derivative
        self._fresh.clear()
        self._points += self._taken

    def restart(self, slot: int, images: Tensor, logits: Tensor | None) -> None:
        self._points[slot] = _flat(images[None], None if logits is None else logits[None])[0]
        self._lowest[slot], self._scale[slot] = torch.inf, 1
        for _, _, inverse in self._pairs:
            inverse[slot] = 0
        self._fresh.add(slot)

    def keep(self, slots: list[int]) -> None:
        self._fresh = {place for place, slot in enumerate(slots) if slot in self._fresh}
        index = upload(slots, self._points.device)
        kept = (self._points, self._best, self._lowest, self._scale, self._derivative, self._taken)
        self._points, self._best, self._lowest, self._scale, self._derivative, self._taken = (state[index] for state in kept)
        self._pairs = [(step[index], change[index], inverse[index]) for step, change, inverse in self._pairs]

    def _split(self, points: Tensor) -> tuple[Tensor, Tensor | None]:
        images = points[:, : self._entries].view(-1, *self._image_shape)
        return images, None if self._logit_shape is None else points[:, self._entries :].view(-1, *self._logit_shape)

    def _remember(self, change: Tensor, fresh: Tensor) -> None:
        product = (change * self._taken).sum(1, keepdim=True)
        # Relative to both lengths: squared distances of a model with small gradients are far below any fixed number.
        least = 1e-10 * change.norm(dim=1, keepdim=True) * self._taken.norm(dim=1, keepdim=True)
        curved = (product > least) & ~fresh
        inverse = torch.where(curved, 1 / product, 0)
        self._scale = torch.where(curved, product / change.square().sum(1, keepdim=True), self._scale)
        self._pairs = [*self._pairs[-_HISTORY + 1 :], (self._taken, change, inverse)]

    def _direction(self, derivative: Tensor) -> Tensor:
        q, weights = -derivative, []
        for step, change, inverse in reversed(self._pairs):
            weights.append((step * q).sum(1, keepdim=True) * inverse)
            q = q - weights[-1] * change
        q = q * self._scale
        for (step, change, inverse), weight in zip(self._pairs, reversed(weights), strict=True):
            q = q + step * (weight - (change * q).sum(1, keepdim=True) * inverse)
        return q


def _flat(images: Tensor, logits: Tensor | None) -> Tensor:
    """Both as rows [S, n]."""
    return torch.cat([part.flatten(1) for part in (images, logits) if part is not None], 1)
