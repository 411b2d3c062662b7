"""The prior that images are near to given ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.objective.term import ImageTerm


@dataclass(frozen=True)
class Anchors(ImageTerm):
    """The squared distance to images [N, B, C, H, W], as a mean over the entries."""

    images: Tensor

    def add_to(self, objective: Tensor, derivative: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        away = images - self.images
        value = self.weight * away.square().flatten(1).mean(1)
        return objective + value, derivative.add(away, alpha=2 * self.weight / images[0].numel())
