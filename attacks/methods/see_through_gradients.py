"""See Through Gradients: Euclidean matching with batch-norm statistics and a consensus of several starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.base import Observation, Progress, Reconstruction
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.anchors import Anchors
from attacks.objective.costs import Euclidean
from attacks.objective.energy import Energy
from attacks.objective.objective import Objective
from attacks.objective.statistics import Statistics, batch_norms
from attacks.objective.term import Term
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge
from attacks.reading.labels import known_or_inferred_labels
from attacks.search.minimise import minimise
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt
from defenses.support import checks


@dataclass(frozen=True)
class SeeThroughGradients(MatchingAttack):
    """Match by the squared Euclidean distance, with total variation, the images' energy, the running statistics of batch norm where
    the model has them, and group consistency over the restarts (GradInversion; Yin et al., CVPR 2021).

    The consensus of the group is the mean of all restarts after half of the iterations, to which each is drawn in the second half;
    the authors update it throughout, and register images of larger size first. The optimiser is that of the other attacks.

    Args:
        gradient: weight of the distance, > 0.
        total_variation, energy, statistics, group: weights of the other terms, >= 0.
        iterations, step_size, restarts, patience: as for :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "see-through-gradients"
    summary: ClassVar[str] = "Euclidean matching with batch-norm statistics and group consistency over restarts"
    paper: ClassVar[str] = "Yin et al., CVPR 2021"
    threat_model: ClassVar[str] = "B"

    total_variation: float = 1e-4
    restarts: int = 2
    gradient: float = 1e-4
    energy: float = 1e-6
    statistics: float = 0.1
    group: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("gradient", self.gradient, above=0)
        for name in ("energy", "statistics", "group"):
            checks.number(name, getattr(self, name), at_least=0)

    def own_obstacle(self, observation: Observation) -> str | None:
        if observation.mixing is not None:
            return "the restarts of images that are mixed have no consensus, since each finds mixes of its own"
        return super().own_obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        terms: list[Term] = [Statistics(self.statistics / self.gradient)] if batch_norms(observation.module) else []
        terms += [TotalVariation(self.total_variation / self.gradient), Energy(self.energy / self.gradient)]
        return with_knowledge(Objective(Euclidean(), tuple(terms)), observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        labels = known_or_inferred_labels(observation)
        first = self.iterations // 2 if self.restarts > 1 and self.group and self.iterations > 1 else 0

        def later(done: int, total: int) -> None:
            if progress is not None:
                progress(first + done, first + total)

        whole = self.iterations
        schedule = Schedule(whole, self.step_size, self.patience)
        problem = Problem(observation, labels, self.objective(observation), schedule, seed)
        if first:
            alone = problem._replace(schedule=replace(schedule, iterations=first))
            begin = minimise(alone, restarts=self.restarts, progress=progress and (lambda done, _: progress(done, whole))).images
            anchors = Anchors(self.group / self.gradient, begin.mean(1))
            together = replace(problem.objective, terms=(*problem.objective.terms, anchors))
            problem = problem._replace(objective=together, schedule=replace(schedule, iterations=whole - first), begin=begin)
        images, costs, _ = minimise(problem, restarts=self.restarts, progress=later).best()
        return rebuilt(observation, images, labels, costs, seed)
