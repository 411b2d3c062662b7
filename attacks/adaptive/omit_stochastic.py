"""Matching without the layers whose gradients a bottleneck's sampling disturbs most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.adaptive.knowledge import bottleneck_names, layers_before_bottlenecks, masks
from attacks.base import Observation
from attacks.matching_attack import MatchingAttack
from attacks.objectives import Objective


@dataclass(frozen=True)
class OmitStochastic(MatchingAttack):
    """Match only the gradients of the layers before the stochastic bottleneck (Scheliga et al., 2022; Balunovic et al., ICLR 2022).

    The arguments are those of :class:`attacks.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "omit-stochastic"
    summary: ClassVar[str] = "matching of the layers before a variational bottleneck alone"
    paper: ClassVar[str] = "Scheliga et al., 2022"
    tier: ClassVar[str] = "adaptive"
    threat_model: ClassVar[str] = "B"

    def obstacle(self, observation: Observation) -> str | None:
        if not bottleneck_names(observation):
            return "the model has no variational bottleneck"
        if not layers_before_bottlenecks(observation):
            return "no layer comes before the bottleneck"
        return super().obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        layers = layers_before_bottlenecks(observation)
        return replace(Objective(total_variation=self.total_variation, layers=layers), masks=masks(observation))
