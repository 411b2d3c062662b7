"""Deep Leakage from Gradients, and its improvement by inferred labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.objective.costs import Euclidean
from attacks.objective.objective import Objective
from attacks.reading.informed import with_knowledge
from attacks.reading.labels import as_classes, known_or_inferred_labels, label_obstacle
from attacks.reading.mixtures import mixture_of
from attacks.search.lbfgs import LBFGS
from attacks.search.minimise import minimise
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt
from defenses.support import checks


@dataclass(frozen=True)
class DLG(Attack):
    """Match gradients by their squared Euclidean distance with L-BFGS, images and label probabilities together (Zhu et al., NeurIPS
    2019). Of all iterates that with the lowest distance is returned, since L-BFGS without a line search can diverge.

    Args:
        iterations: evaluations of the gradient, >= 1. The authors take 300 steps of up to 20.
        step_size: of L-BFGS, > 0.
        restarts: independent random starts, >= 1, of which that of the lowest distance is kept.
    """

    name: ClassVar[str] = "dlg"
    summary: ClassVar[str] = "Euclidean matching with L-BFGS, labels optimised jointly"
    paper: ClassVar[str] = "Zhu et al., NeurIPS 2019"
    threat_model: ClassVar[str] = "B"

    iterations: int = 1200
    step_size: float = 1.0
    restarts: int = 1

    #: Whether labels are variables of the optimisation; otherwise they are inferred beforehand.
    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.whole("iterations", self.iterations, at_least=1)
        checks.number("step_size", self.step_size, above=0)
        checks.whole("restarts", self.restarts, at_least=1)

    def own_obstacle(self, observation: Observation) -> str | None:
        return label_obstacle(observation)

    def informed_by(self, observation: Observation) -> bool:
        if not super().informed_by(observation):
            return False
        assert observation.defense is not None
        blind = observation.blind()
        return (observation.defense.regularized or bool(observation.choices) or observation.mixing is not None
                or observation.stochastic.keys() != blind.stochastic.keys()
                or not self._objective(observation).same_as(self._objective(blind)))

    def _objective(self, observation: Observation) -> Objective:
        return with_knowledge(Objective(Euclidean()), observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        labels = as_classes(known_or_inferred_labels(observation)) if self.joint else known_or_inferred_labels(observation)
        # The last evaluation needs no step; the step size does not decay.
        schedule = Schedule(self.iterations - 1, self.step_size, self.iterations, eighths=())
        mixture = mixture_of(observation)
        problem = Problem(observation, labels, self._objective(observation), schedule, seed, joint=self.joint, mixture=mixture)
        images, costs, others = minimise(problem, optimizer=LBFGS, restarts=self.restarts, progress=progress and (
            lambda done, _: progress(done, self.iterations))).best()
        if progress is not None:
            progress(self.iterations, self.iterations)
        if mixture is not None:
            images = mixture.originals(images, others[0])
        elif self.joint:
            labels = others[0]
        return rebuilt(observation, images, labels, costs, seed)


@dataclass(frozen=True)
class IDLG(DLG):
    """As DLG, but the label is read from the gradient of the last layer first (Zhao et al., 2020). The arguments are those of
    :class:`DLG`."""

    name: ClassVar[str] = "idlg"
    summary: ClassVar[str] = "the label is read first, then Euclidean matching with L-BFGS"
    paper: ClassVar[str] = "Zhao et al., 2020"

    joint: ClassVar[bool] = False

