"""Matching of the entries that pruning left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.adaptive.knowledge import masks, with_knowledge
from attacks.base import Observation
from attacks.matching_attack import MatchingAttack
from attacks.objectives import Objective


@dataclass(frozen=True)
class MaskAware(MatchingAttack):
    """Compare the gradients by their cosine over the entries that survived pruning (ours).

    A candidate's gradient is not sparse: compared with the zeros of a pruned one it never matches, though the largest entries,
    which are there, tell the image. Under PRECODE the bottleneck's code is replayed too. The arguments are those of
    :class:`attacks.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "mask-aware"
    summary: ClassVar[str] = "cosine matching over the entries that survived pruning"
    paper: ClassVar[str] = "Leakboard"
    tier: ClassVar[str] = "adaptive"
    threat_model: ClassVar[str] = "B"

    def obstacle(self, observation: Observation) -> str | None:
        if not masks(observation):
            return "the gradient is not pruned"
        return super().obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        return with_knowledge(Objective(total_variation=self.total_variation), observation)
