"""Inverting Gradients: cosine matching with a total-variation prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Observation
from attacks.matching_attack import MatchingAttack
from attacks.objectives import Objective


@dataclass(frozen=True)
class InvertingGradients(MatchingAttack):
    """Match the observed gradient by the cosine similarity, with signed Adam (Geiping et al., NeurIPS 2020).

    The arguments are those of :class:`attacks.matching_attack.MatchingAttack`. The authors use up to 24,000 iterations, and a total
    variation of 1e-4 and more; the default is the stronger attack on an untrained LeNet (16 CIFAR-10 victims, 1,000 iterations:
    ASR 1.00 with 1e-6, 0.38 with 1e-4).
    """

    name: ClassVar[str] = "inverting-gradients"
    summary: ClassVar[str] = "cosine matching of the gradient, total variation, signed Adam"
    paper: ClassVar[str] = "Geiping et al., NeurIPS 2020"
    tier: ClassVar[str] = "static"
    threat_model: ClassVar[str] = "B"

    def objective(self, observation: Observation) -> Objective:
        return Objective(total_variation=self.total_variation)
