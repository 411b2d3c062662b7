"""Matching gradients together with the features that the last layer's gradient tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.adaptive.knowledge import last_features, with_knowledge
from attacks.base import Observation
from attacks.matching_attack import MatchingAttack
from attacks.objectives import Objective


@dataclass(frozen=True)
class FeatureMatching(MatchingAttack):
    """Match the gradients layer by layer, and the features h that entered the last layer (ours).

    The last layer is linear, so for one image the ratio of its weight's and its bias' gradient is h (:mod:`attacks.linear_inputs`),
    which is matched as |h(x) - h|^2 relative to the variance of h. On a trained model, where large layers drown the others in one
    cosine, this is the stronger attack; there a strong prior is needed too. Under PRECODE the last layer sees what the bottleneck
    samples; ``replay-bottleneck`` takes what enters the bottleneck instead. The arguments are those of
    :class:`attacks.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "feature-matching"
    summary: ClassVar[str] = "gradients layer by layer, and the features that the last layer's gradient tells"
    paper: ClassVar[str] = "Leakboard"
    tier: ClassVar[str] = "static"
    threat_model: ClassVar[str] = "B"

    total_variation: float = 3e-2

    def obstacle(self, observation: Observation) -> str | None:
        features = last_features(observation)
        return features if isinstance(features, str) else super().obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        features = last_features(observation)
        assert not isinstance(features, str)
        return with_knowledge(Objective(total_variation=self.total_variation, per_layer=True, features=features), observation)
