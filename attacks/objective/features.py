"""Features that the attacker knows, since the gradient told them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.objective.term import LayerTerm


@dataclass(frozen=True)
class Features(LayerTerm):
    """The mean squared difference of what enters a layer to what entered it at the client, relative to the variance of the latter.

    Args:
        weight: a number >= 0.
        layer: its name.
        known: [N, B, d].
    """

    layer: str
    known: Tensor

    def layers(self, module: nn.Module) -> dict[str, nn.Module]:
        return {self.layer: module.get_submodule(self.layer)}

    def distance(self, module: nn.Module, entered: Mapping[str, Tensor], victims: int) -> Tensor:
        found = entered[self.layer].reshape(self.known.shape).flatten(1)
        target = self.known.flatten(1)
        variance = target.var(1)
        return (found - target).square().mean(1) / torch.where(variance > 0, variance, 1)  # all equal: nothing is known
