"""What moves the candidates of many victims."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class Optimizer:
    """Moves images, and what else is variable, of one victim in each slot; none changes with what becomes of another.

    Args:
        images: [S, B, C, H, W], where to begin, changed in place.
        others: [S, ...] each, such as the logits of labels; none where images are all.
        bounds: of the images and of each of the others the lowest and the highest valid value, broadcast to them.

    Attributes:
        images, others: where the objective is to be evaluated next.
    """

    images: Tensor
    others: list[Tensor]

    def __init__(self, images: Tensor, others: Sequence[Tensor], bounds: Sequence[tuple[Tensor, Tensor]]) -> None:
        raise NotImplementedError

    def look(self, objective: Tensor) -> None:
        """The objective [S] at the present images and others."""
        raise NotImplementedError

    def step(self, derivative: Tensor, by_others: Sequence[Tensor], sizes: Tensor) -> None:
        """One iteration from the derivatives there, with the step sizes [S] in float64."""
        raise NotImplementedError

    def found(self, slot: int) -> tuple[Tensor, list[Tensor], Tensor]:
        """Of a slot what the optimisation returns if it ends here: images, others and objective."""
        raise NotImplementedError

    def restart(self, slot: int, images: Tensor, others: Sequence[Tensor]) -> None:
        """Begin anew with another victim in a slot."""
        raise NotImplementedError

    def keep(self, slots: list[int]) -> None:
        """Go on with some of the slots only."""
        raise NotImplementedError
