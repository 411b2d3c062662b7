"""How improbable a code is that the attacker knows of a stochastic layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.objective.term import LayerTerm
from defenses.stochastic import StochasticLayer


@dataclass(frozen=True)
class Code(LayerTerm):
    """Minus the logarithm of the density of codes z under the features that candidates let enter, 0.5 ((z - mu) / sigma)^2 + log
    sigma, as a mean over their entries.

    Args:
        weight: a number >= 0.
        layer: the name of a stochastic layer; without a :meth:`defenses.stochastic.StochasticLayer.law` all codes count alike.
        known: the codes, [N, B, *shape].
    """

    layer: str
    known: Tensor

    def layers(self, module: nn.Module) -> dict[str, nn.Module]:
        return {self.layer: module.get_submodule(self.layer)}

    def distance(self, module: nn.Module, entered: Mapping[str, Tensor], victims: int) -> Tensor:
        layer = module.get_submodule(self.layer)
        assert isinstance(layer, StochasticLayer)
        law = layer.law(entered[self.layer])
        if law is None:
            return self.known.new_zeros(victims)
        mu, sigma = law
        away = (self.known.reshape(mu.shape) - mu) / sigma
        improbable: Tensor = (0.5 * away.square() + torch.log(sigma)).reshape(victims, -1).mean(1)
        return improbable
