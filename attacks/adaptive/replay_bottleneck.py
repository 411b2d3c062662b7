"""Matching under the very sample that PRECODE drew, which its own gradient tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.adaptive.knowledge import features, layers_before_bottlenecks, replay_obstacle, with_knowledge
from attacks.base import Observation
from attacks.matching_attack import MatchingAttack
from attacks.objectives import Objective
from defenses import checks


@dataclass(frozen=True)
class ReplayBottleneck(MatchingAttack):
    """Read the code z from the gradient of the bottleneck's decoder, and match gradients under that code (ours).

    The decoder is a linear layer with bias, so for one image its gradient tells its input z exactly (:mod:`attacks.linear_inputs`).
    In the forward pass of the attack z takes the place of a fresh sample: the noise is the constant (z - mu) / sigma, and the
    matching is as deterministic as for an undefended client. The encoder's gradient likewise tells the features h.

    Args:
        target: ``gradients``: one cosine over all layers, best for an untrained model; ``features``: a cosine per layer over those
            before the bottleneck, and |h(x) - h|^2 relative to the variance of h, best for a trained model, where the gradients of
            large linear layers drown those of the others (a total variation of 1e-2 then helps).
        iterations, step_size, total_variation, restarts, patience: as for :class:`attacks.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "replay-bottleneck"
    summary: ClassVar[str] = "the bottleneck's sample is read from its gradient and replayed"
    paper: ClassVar[str] = "Leakboard"
    tier: ClassVar[str] = "adaptive"
    threat_model: ClassVar[str] = "B"

    target: str = "gradients"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("target", self.target, ("gradients", "features"))

    def obstacle(self, observation: Observation) -> str | None:
        if self.target == "features" and not layers_before_bottlenecks(observation):
            return "no layer comes before the bottleneck"
        return replay_obstacle(observation) or super().obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        objective = with_knowledge(Objective(total_variation=self.total_variation), observation)
        if self.target == "gradients":
            return objective
        return replace(objective, per_layer=True, layers=layers_before_bottlenecks(observation), features=features(observation))
