"""The prior that all epochs are of the same images, in whatever order (Dimitrov et al., TMLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.objective.term import ImageTerm


@dataclass(frozen=True)
class SameEpochs(ImageTerm):
    """The mean squared difference between the mean images of two epochs, as a mean over all pairs of epochs, an epoch with itself
    included.

    Args:
        weight: a number >= 0.
        epochs: E; images [N, E * B, C, H, W] are those of one epoch after those of another.
    """

    epochs: int

    def add_to(self, objective: Tensor, derivative: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        means = images.unflatten(1, (self.epochs, -1)).mean(2)
        away = means - means.mean(1, keepdim=True)
        # Over all pairs (m_e - m_f)^2 comes to twice the variance of the m_e.
        value = 2 * self.weight * away.square().flatten(1).mean(1)
        by_image = away.repeat_interleave(images.shape[1] // self.epochs, 1)
        return objective + value, derivative.add(by_image, alpha=4 * self.weight / images[0].numel())
