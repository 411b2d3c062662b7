"""The same victim observed in several rounds: what a randomised defense adds averages out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.adaptive.knowledge import is_randomised, noise_std
from attacks.adaptive.noise_aware import NoiseAware
from attacks.base import Observation
from attacks.matching_attack import MatchingAttack
from attacks.objectives import Objective


@dataclass(frozen=True)
class Averaging(MatchingAttack):
    """Match the mean of the gradients that a victim shared in T rounds (ours).

    Noise of known standard deviation is then sigma / sqrt(T), for which the attack is ``noise-aware``; other randomness is averaged
    as it is and matched by the cosine. The rounds are those of one state of the model. The arguments are those of
    :class:`attacks.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "averaging"
    summary: ClassVar[str] = "the gradients of several rounds are averaged before they are matched"
    paper: ClassVar[str] = "Leakboard"
    tier: ClassVar[str] = "adaptive"
    threat_model: ClassVar[str] = "B"

    def obstacle(self, observation: Observation) -> str | None:
        if not is_randomised(observation.defense):
            return "the defense is not randomised: every round shares the same gradient"
        if observation.averaged is None:
            return "one round was observed; set evaluation.rounds to observe more"
        return super().obstacle(observation)

    def prepared(self, observation: Observation) -> Observation:
        assert observation.averaged is not None
        return replace(observation, gradients=observation.averaged, averaged=None, averaged_rounds=observation.rounds)

    def objective(self, observation: Observation) -> Objective:
        if noise_std(observation):
            return NoiseAware().objective(observation)
        return Objective(total_variation=self.total_variation)
