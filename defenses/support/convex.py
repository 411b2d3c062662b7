"""Convex combinations of the images of a batch and of their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.step import Batch, Step
from defenses.support.targets import probabilities

#: Draws of a mix's coefficients of which the first within the bound is taken: a rejection that never waits for the device. With two
#: images and a bound of 0.65, the least of what is used, none is found once in 10^9 draws.
_DRAWS = 64


def mixed(batch: Batch, step: Step, k: int, largest: float) -> Batch:
    """Mix each image and its label with k - 1 others of the batch, or with all where there are fewer.

    The batch is brought into a random order, in which each image is mixed with those that follow, so that the k are distinct and
    each image is in k mixes. Coefficients are uniform on the simplex where none is above ``largest``.

    Args:
        batch: of the client.
        step: has the generator and the model.
        k: images in a mix, >= 1.
        largest: of a coefficient; where 1 / k is larger all are 1 / k.

    Returns:
        Images [B, C, H, W] and probabilities of the classes [B, classes].
    """
    images, targets = batch.images, probabilities(batch.targets, step.module, batch.images)
    count, k = len(images), min(k, len(images))
    shares = coefficients(count, k, largest, images, step.generator)
    order = images.new_empty(count).uniform_(generator=step.generator).argsort()
    place = order.argsort()  # where each image came in that order
    others = [order[(place + shift) % count] for shift in range(k)]  # the first are the images themselves
    return Batch(sum(shares[:, j].view(-1, *[1] * (images.dim() - 1)) * images[of] for j, of in enumerate(others)),  # type: ignore[arg-type]
                 sum(shares[:, j, None] * targets[of] for j, of in enumerate(others)))  # type: ignore[arg-type]


def coefficients(count: int, k: int, largest: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Coefficients [count, k] of mixes, >= 0 with sum 1: uniform among those of which none is larger than ``largest``. Where no
    draw is within so narrow a bound, one is drawn towards 1 / k until it is."""
    drawn = like.new_empty(count, _DRAWS, k).exponential_(generator=generator)
    drawn = drawn / drawn.sum(-1, keepdim=True)
    first = (drawn.amax(-1) <= largest).to(torch.uint8).argmax(1)  # 0 where none is
    chosen = drawn.gather(1, first.view(-1, 1, 1).expand(-1, 1, k))[:, 0]
    over = (chosen.amax(1, keepdim=True) - 1 / k).clamp_min(torch.finfo(like.dtype).tiny)
    return 1 / k + (chosen - 1 / k) * (max(0.0, largest - 1 / k) / over).clamp_max(1)
