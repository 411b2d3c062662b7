"""The prior that neighbouring pixels are alike (Rudin et al., 1992, here anisotropic)."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.objective.term import ImageTerm


class TotalVariation(ImageTerm):
    """The mean absolute difference of neighbours in both directions, added up."""

    def add_to(self, objective: Tensor, derivative: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        value, by_image = with_derivative(images)
        return objective.add(value, alpha=self.weight), derivative.add(by_image, alpha=self.weight)


def total_variation(x: Tensor) -> Tensor:
    """Of images [N, ..., H, W], each over all its channels: [N]."""
    vertical, horizontal = x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]
    return vertical.abs().flatten(1).mean(1) + horizontal.abs().flatten(1).mean(1)


def with_derivative(x: Tensor) -> tuple[Tensor, Tensor]:
    """Total variation [N] and its derivative, of the images' shape; 0 where two neighbours are equal.

    In closed form, in which images are read a few times, where autograd makes some twenty tensors of their size.
    """
    value, derivative = x.new_zeros(len(x)), torch.zeros_like(x)
    for dim in (-2, -1):
        if x.shape[dim] > 1:
            later, earlier = x.narrow(dim, 1, x.shape[dim] - 1), x.narrow(dim, 0, x.shape[dim] - 1)
            difference = later - earlier
            pairs = difference[0].numel()
            value += torch.linalg.vector_norm(difference.flatten(1), 1, dim=1) / pairs
            difference.sign_()
            derivative.narrow(dim, 1, x.shape[dim] - 1).add_(difference, alpha=1 / pairs)
            derivative.narrow(dim, 0, x.shape[dim] - 1).sub_(difference, alpha=1 / pairs)
    return value, derivative
