"""An attack of your own. One that matches gradients says what is minimised, and no more; the search is there. See run.sh."""

from __future__ import annotations

from dataclasses import dataclass

from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge


@dataclass(frozen=True)
class Squares(MatchingAttack):
    """Minimise the squared distance of the gradients, with a total variation, by signed Adam."""

    name = "squares"
    summary = "squared distance of the gradients, total variation, signed Adam"
    threat_model = "B"

    def objective(self, observation):
        # An informed attacker's objective follows from what the defense discloses; a blind one's is left as it is.
        return with_knowledge(Objective(cost=Euclidean(), terms=(TotalVariation(self.total_variation),)), observation)
