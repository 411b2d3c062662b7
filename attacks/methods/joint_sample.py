"""Matching by the image together with what the client sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.base import Observation
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge
from attacks.reading.layers import replay_obstacle
from defenses.support import checks


@dataclass(frozen=True)
class JointSample(MatchingAttack):
    """Optimise the images together with what the stochastic layers sampled at the client, where that cannot be read (Scheliga et
    al., AAAI 2023, for dropout masks; ours for Gaussian samples).

    With the client's own samples the matching is as deterministic as without a defense. They begin as a draw of the attacker's own
    and are moved by Adam on their derivative, with the step size of the images; masks of dropout are relaxed to [0, 1]. Added to
    the cosine are the total variation of the images and how improbable the samples are: of dropout how far the share that is kept
    is from what is expected, of a Gaussian 0.5 epsilon^2 as a mean over its entries.

    Args:
        prior: weight of the improbability of the samples, >= 0; 1e-4 is that of the authors for masks.

    The other arguments are those of :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "joint-sample"
    summary: ClassVar[str] = "cosine matching by the images together with what stochastic layers sampled"
    paper: ClassVar[str] = "Scheliga et al., AAAI 2023"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("defense",)

    prior: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("prior", self.prior, at_least=0)

    def obstacle(self, observation: Observation) -> str | None:
        if observation.defense is None:
            return "a blind attacker does not know that layers are stochastic"
        if not observation.stochastic:
            return "the model has no stochastic layer"
        if replay_obstacle(observation) is None:
            return "what the layers sampled is read from the gradient, and other attacks replay it"
        return super().obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        objective = Objective(terms=(TotalVariation(self.total_variation),))
        return replace(with_knowledge(objective, observation), sample_prior=self.prior)
