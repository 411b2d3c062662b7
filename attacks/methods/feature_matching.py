"""Matching gradients together with the features that a layer's gradient tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Observation
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.reading.informed import by_features, layers_and_features


@dataclass(frozen=True)
class FeatureMatching(MatchingAttack):
    """Match the gradients layer by layer, and the features h that entered a layer (ours).

    The last layer is linear, so for one image the ratio of its weight's and its bias' gradient is h
    (:mod:`attacks.reading.linear_inputs`), which is matched as |h(x) - h|^2 relative to the variance of h. On a trained model,
    where large layers drown the others in one cosine, this is the stronger attack; there a strong prior is needed too. Of a model
    with stochastic layers an informed attacker takes the features that enter the first of these, and the layers before it. The
    arguments are those of :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "feature-matching"
    summary: ClassVar[str] = "gradients layer by layer, and the features that a layer's gradient tells"
    paper: ClassVar[str] = "Leakboard"
    threat_model: ClassVar[str] = "B"

    total_variation: float = 3e-2

    def own_obstacle(self, observation: Observation) -> str | None:
        found = layers_and_features(observation)
        return found if isinstance(found, str) else super().own_obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        return by_features(observation, self.total_variation)
