"""Inverting Gradients: cosine matching with a total-variation prior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.base import Observation
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge
from defenses.client import ONE_GRADIENT
from defenses.support import checks


@dataclass(frozen=True)
class InvertingGradients(MatchingAttack):
    """Match the observed gradient by the cosine similarity, with signed Adam (Geiping et al., NeurIPS 2020).

    An informed attacker compares the entries that were not hidden, and replays the codes that stochastic layers sampled. A gradient
    that was pruned is otherwise compared with zeros that no candidate has; and under the client's own code the matching is as
    deterministic as without a defense.

    The authors use up to 24,000 iterations, and a total variation of 1e-4 and more; the default is the stronger attack on an
    untrained LeNet (16 CIFAR-10 victims, 1,000 iterations: ASR 1.00 with 1e-6, 0.38 with 1e-4).

    Args:
        first_order: whether an update of several local steps is taken for a gradient at the weights that were sent, the baseline of
            attacks that know better; otherwise there is an obstacle.
        iterations, step_size, total_variation, restarts, patience: as for :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "inverting-gradients"
    summary: ClassVar[str] = "cosine matching of the gradient, total variation, signed Adam"
    paper: ClassVar[str] = "Geiping et al., NeurIPS 2020"
    threat_model: ClassVar[str] = "B"

    first_order: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("first_order", self.first_order)

    @property
    def takes_updates(self) -> bool:  # type: ignore[override]
        return self.first_order

    def prepared(self, observation: Observation) -> Observation:
        return replace(observation, local=ONE_GRADIENT) if observation.local else observation

    def objective(self, observation: Observation) -> Objective:
        return with_knowledge(Objective(terms=(TotalVariation(self.total_variation),)), observation)
