"""What attacks by gradient matching share: signed Adam on an objective that each of them defines."""

from __future__ import annotations

from dataclasses import dataclass

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.objective.objective import Objective
from attacks.reading.labels import known_or_inferred_labels, label_obstacle
from attacks.reading.mixtures import mixture_of
from attacks.search.minimise import minimise
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt
from defenses.support import checks


@dataclass(frozen=True)
class MatchingAttack(Attack):
    """Optimise images until their gradient is the observed one, all victims in one batched optimisation.

    Images start as standard normal noise in normalised space and stay within the box of valid pixels. The optimiser is Adam on the
    sign of the derivative; its step size decays by 0.1 after 3/8, 5/8 and 7/8 of the iterations (Geiping et al., NeurIPS 2020). Of
    several restarts the one of the lowest final objective is kept.

    Args:
        iterations: of Adam, >= 1.
        step_size: of Adam, > 0, in normalised space.
        total_variation: weight of the prior on the images, >= 0.
        restarts: independent random starts, >= 1.
        patience: iterations without progress after which a victim goes on to the next smaller step size, and with the smallest
            is done, >= 1 (1,200 as in PRECODE's evaluation).
    """

    iterations: int = 3000
    step_size: float = 0.1
    total_variation: float = 1e-6
    restarts: int = 1
    patience: int = 1200

    def __post_init__(self) -> None:
        checks.whole("iterations", self.iterations, at_least=1)
        checks.number("step_size", self.step_size, above=0)
        checks.number("total_variation", self.total_variation, at_least=0)
        checks.whole("restarts", self.restarts, at_least=1)
        checks.whole("patience", self.patience, at_least=1)

    def objective(self, observation: Observation) -> Objective:
        """What is minimised."""
        raise NotImplementedError

    def informed_by(self, observation: Observation) -> bool:
        blind = observation.blind()
        if not super().informed_by(observation) or self.obstacle(blind) is not None:
            return super().informed_by(observation)
        if self.obstacle(observation) is not None:
            return True
        assert observation.defense is not None
        # Some layers sample for a blind attacker too; what else an attack knows stands in its objective.
        return (observation.defense.regularized or bool(observation.choices) or observation.mixing is not None
                or observation.stochastic.keys() != blind.stochastic.keys()
                or not self.objective(self.prepared(observation)).same_as(self.objective(self.prepared(blind))))

    def prepared(self, observation: Observation) -> Observation:
        """The observation that is matched."""
        return observation

    def own_obstacle(self, observation: Observation) -> str | None:
        return label_obstacle(observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        observation = self.prepared(observation)
        labels = known_or_inferred_labels(observation)
        schedule = Schedule(self.iterations, self.step_size, self.patience)
        mixture = mixture_of(observation)
        problem = Problem(observation, labels, self.objective(observation), schedule, seed, mixture=mixture)
        images, costs, others = minimise(problem, restarts=self.restarts, progress=progress).best()
        if mixture is not None:
            images = mixture.originals(images, others[0])
        return rebuilt(observation, images, labels, costs, seed)
