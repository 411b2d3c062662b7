"""The prior that images are near to the mean of all."""

from __future__ import annotations

from torch import Tensor

from attacks.objective.term import ImageTerm


class Energy(ImageTerm):
    """The squared Euclidean norm of the normalised images, as a mean over their entries."""

    def add_to(self, objective: Tensor, derivative: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        value = self.weight * images.square().flatten(1).mean(1)
        return objective + value, derivative.add(images, alpha=2 * self.weight / images[0].numel())
