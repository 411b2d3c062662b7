"""What an objective adds to the comparison of gradients: terms that read the images, and terms that read what enters layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Term:
    """A term of an objective; fields that are tensors have one entry a victim, [N, ...].

    Args:
        weight: a number >= 0.
    """

    weight: float

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of {type(self).__name__} must be a number >= 0, got {self.weight}")


class ImageTerm(Term):
    """A prior on the normalised images [N, B, C, H, W], with a derivative in closed form, which takes far less than autograd's."""

    def add_to(self, objective: Tensor, derivative: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The objective [N] and its derivative by the images with those of this term."""
        raise NotImplementedError


class LayerTerm(Term):
    """A distance that is computed from what enters some layers."""

    def layers(self, module: nn.Module) -> dict[str, nn.Module]:
        """The layers, by name."""
        raise NotImplementedError

    def distance(self, module: nn.Module, entered: Mapping[str, Tensor], victims: int) -> Tensor:
        """[N], from what entered these layers in a forward pass of N victims' images, [N * B, ...]."""
        raise NotImplementedError
