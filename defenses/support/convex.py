"""Convex combinations of the images of a batch and of their labels."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

#: Draws of a mix's coefficients of which the first within the bound is taken: a rejection that never waits for the device. With two
#: images and a bound of 0.65, the least of what is used, none is found once in 10^9 draws.
_DRAWS = 64


def mixed(images: Tensor, targets: Tensor, k: int, largest: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with k - 1 others of the batch, or with all where there are fewer.

    The batch is brought into a random order, in which each image is mixed with those that follow, so that the k are distinct and
    each image is in k mixes. Coefficients are uniform on the simplex where none is above ``largest``.

    Args:
        images: [B, C, H, W].
        targets: probabilities of the classes, [B, classes].
        k: images in a mix, >= 1.
        largest: of a coefficient; where 1 / k is larger all are 1 / k.
        generator: of what is drawn.

    Returns:
        Both, of the same shapes.
    """
    count, k = len(images), min(k, len(images))
    shares = coefficients(count, k, largest, images, generator)
    order = images.new_empty(count).uniform_(generator=generator).argsort()
    place = order.argsort()  # where each image came in that order
    others = [order[(place + shift) % count] for shift in range(k)]  # the first are the images themselves
    return _sum(shares, [images[of] for of in others]), _sum(shares, [targets[of] for of in others])


def coefficients(count: int, k: int, largest: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Coefficients [count, k] of mixes, >= 0 with sum 1: uniform among those of which none is larger than ``largest``. Where no
    draw is within so narrow a bound, one is drawn towards 1 / k until it is."""
    uniform = like.new_empty(count, _DRAWS, k).uniform_(generator=generator)
    drawn = -uniform.clamp_min(torch.finfo(like.dtype).tiny).log()  # exponential; divided by their sum, uniform on the simplex
    drawn = drawn / drawn.sum(-1, keepdim=True)
    first = (drawn.amax(-1) <= largest).to(torch.uint8).argmax(1)  # 0 where none is
    chosen = drawn.gather(1, first.view(-1, 1, 1).expand(-1, 1, k))[:, 0]
    over = (chosen.amax(1, keepdim=True) - 1 / k).clamp_min(torch.finfo(like.dtype).tiny)
    return 1 / k + (chosen - 1 / k) * (max(0.0, largest - 1 / k) / over).clamp_max(1)


def _sum(shares: Tensor, values: list[Tensor]) -> Tensor:
    """Of k tensors [B, ...] with coefficients [B, k]."""
    terms = (shares[:, j].view(-1, *[1] * (value.dim() - 1)) * value for j, value in enumerate(values))
    return reduce(torch.add, terms)
