"""What moves the candidates of many victims."""

from __future__ import annotations

from torch import Tensor


class Optimizer:
    """Moves images, and labels where they are variables too, of one victim in each slot; none changes with what becomes of another.

    Args:
        images: [S, B, C, H, W], where to begin, changed in place.
        logits: of labels [S, B, classes], or None where labels are given.
        bounds: the lowest and the highest valid value of the images, broadcast to them.

    Attributes:
        images, logits: where the objective is to be evaluated next.
    """

    images: Tensor
    logits: Tensor | None

    def __init__(self, images: Tensor, logits: Tensor | None, bounds: tuple[Tensor, Tensor]) -> None:
        raise NotImplementedError

    def look(self, objective: Tensor) -> None:
        """The objective [S] at the present images and logits."""
        raise NotImplementedError

    def step(self, derivative: Tensor, by_logits: Tensor | None, sizes: Tensor) -> None:
        """One iteration from the derivatives there, with the step sizes [S] in float64."""
        raise NotImplementedError

    def found(self, slot: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Of a slot what the optimisation returns if it ends here: images, logits and objective."""
        raise NotImplementedError

    def restart(self, slot: int, images: Tensor, logits: Tensor | None) -> None:
        """Begin anew with another victim in a slot."""
        raise NotImplementedError

    def keep(self, slots: list[int]) -> None:
        """Go on with some of the slots only."""
        raise NotImplementedError
