"""Matching gradients together with the features that a layer's gradient tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Observation
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objectives import Objective
from attacks.reading.knowledge import features, last_features, layers_before_sampling, replay_obstacle, with_knowledge


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

    def obstacle(self, observation: Observation) -> str | None:
        found = self._layers_and_features(observation)
        return found if isinstance(found, str) else super().obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        found = self._layers_and_features(observation)
        assert not isinstance(found, str)
        layers, known = found
        plain = Objective(total_variation=self.total_variation, per_layer=True, layers=layers, features=known)
        return with_knowledge(plain, observation)

    def _layers_and_features(self, observation: Observation) -> tuple[tuple[str, ...] | None, dict] | str:
        if replay_obstacle(observation) is None:
            layers = layers_before_sampling(observation)
            return (layers, features(observation)) if layers else "no layer comes before the stochastic one"
        known = last_features(observation)
        return known if isinstance(known, str) else (None, known)
