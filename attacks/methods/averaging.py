"""The same victim observed in several rounds: what is random averages out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from attacks.base import Observation
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import posterior, with_knowledge
from attacks.reading.releases import told


@dataclass(frozen=True)
class Averaging(MatchingAttack):
    """Match the mean of the gradients that a victim shared in T rounds (ours).

    To an informed attacker noise of known variance is then 1 / T of it, for which the posterior is maximised as in ``likelihood``;
    other randomness is averaged as it is and matched by the cosine. The rounds are those of one state of the model.

    Args:
        total_variation: weight of the prior, >= 0; by default 0.1 with the likelihood, and 1e-6 with the cosine.
        iterations, step_size, restarts, patience: as for :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "averaging"
    summary: ClassVar[str] = "the gradients of several rounds are averaged before they are matched"
    paper: ClassVar[str] = "Leakboard"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("rounds",)

    total_variation: float | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.total_variation is None:
            replace(self, total_variation=0.0)  # checks the others
        else:
            super().__post_init__()

    def own_obstacle(self, observation: Observation) -> str | None:
        if len(observation.rounds) < 2:
            return "one round was observed; set evaluation.rounds to observe more"
        if observation.choices:
            return "the images were changed anew in each round"
        first, second = observation.rounds[0].shared, observation.rounds[1].shared
        if observation.device.type != "meta" and all(torch.equal(g, second[name]) for name, g in first.items()):
            return "every round shares the same gradient"
        if observation.mixing is not None:
            return "images are mixed anew in every round, so that the mean is of no one mix"
        return super().own_obstacle(observation)

    def prepared(self, observation: Observation) -> Observation:
        return observation.averaged()

    def objective(self, observation: Observation) -> Objective:
        if told(observation).variances:
            return posterior(observation, self.total_variation)
        weight = 1e-6 if self.total_variation is None else self.total_variation
        return with_knowledge(Objective(terms=(TotalVariation(weight),)), observation)
