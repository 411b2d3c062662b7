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
        told: [N, B, d], the entries that are known; None for all.
    """

    layer: str
    known: Tensor
    told: Tensor | None = None

    def layers(self, module: nn.Module) -> dict[str, nn.Module]:
        return {self.layer: module.get_submodule(self.layer)}

    def distance(self, module: nn.Module, entered: Mapping[str, Tensor], victims: int) -> Tensor:
        found = entered[self.layer].reshape(self.known.shape).flatten(1)
        target = self.known.flatten(1)
        if self.told is None:
            error, variance = (found - target).square().mean(1), target.var(1)
        else:
            told = self.told.flatten(1).to(target.dtype)
            count = told.sum(1).clamp_min(1)
            middle = (told * target).sum(1, keepdim=True) / count[:, None]
            error, variance = ((told * away.square()).sum(1) / count for away in (found - target, target - middle))
        return error / torch.where(variance > 0, variance, 1)  # all equal: nothing is known
