"""Matching without the layers whose gradients the sampling of a stochastic layer disturbs most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Observation
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.layers import layers_before_sampling
from attacks.reading.releases import told
from defenses.stochastic import stochastic_layers


@dataclass(frozen=True)
class OmitStochastic(MatchingAttack):
    """Match only the gradients of the layers before the first stochastic layer (Scheliga et al., 2022; Balunovic et al., ICLR
    2022).

    The arguments are those of :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "omit-stochastic"
    summary: ClassVar[str] = "cosine matching of the layers before a stochastic layer alone"
    paper: ClassVar[str] = "Scheliga et al., 2022"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("defense",)

    def own_obstacle(self, observation: Observation) -> str | None:
        if observation.defense is None:
            return "a blind attacker does not know that layers are stochastic"
        if not stochastic_layers(observation.module):
            return "the model has no stochastic layer"
        if not layers_before_sampling(observation):
            return "no layer comes before the stochastic one"
        return super().own_obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        known = told(observation)
        return Objective(terms=(TotalVariation(self.total_variation),), layers=layers_before_sampling(observation),
                         masks=known.masks, passes=known.passes)
