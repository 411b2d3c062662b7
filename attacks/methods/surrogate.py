"""Matching of an update by the gradient at one point between the weights that were sent and those that came back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from attacks.base import Observation, Progress, Reconstruction
from attacks.engine.updates import SurrogateStep
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge
from attacks.reading.labels import known_or_inferred_labels
from attacks.search.minimise import minimise
from attacks.search.problem import Problem, Scalar
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt
from defenses.support import checks


@dataclass(frozen=True)
class Surrogate(MatchingAttack):
    """Match the direction of the update w_0 - w_T by the cosine with the gradient of all images at w_0 + alpha (w_T - w_0), where
    alpha, of each victim its own, is a variable between 0 and 1 that begins in the middle (surrogate model extension; Zhu et al.,
    ICML 2023). No order of images and no number of steps matters, and a step costs no more than that of a single gradient.

    The authors move images by Adam; here they are moved as by the other attacks, by Adam on the sign of their derivative, and alpha
    by Adam, ten times as fast as in the published code, so that it comes from the middle to either end within 100 iterations: where
    the first step is as long as all later ones together, the point is at w_0.

    Args:
        alpha_step: of Adam on alpha, > 0; it decays with ``step_size``.
        iterations, step_size, total_variation, restarts, patience: as for :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "surrogate"
    summary: ClassVar[str] = "the gradient between the weights sent and returned is matched with the direction of the update"
    paper: ClassVar[str] = "Zhu et al., ICML 2023"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("updates",)
    takes_updates: ClassVar[bool] = True

    alpha_step: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("alpha_step", self.alpha_step, above=0)

    def own_obstacle(self, observation: Observation) -> str | None:
        if not observation.local:
            return "one gradient was shared, and no update of several local steps"
        return super().own_obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        return with_knowledge(Objective(terms=(TotalVariation(self.total_variation),)), observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        labels = known_or_inferred_labels(observation)
        # Adam does not see a scale: alpha in units of so much moves by its own step size where images move by theirs.
        resolution = self.step_size / self.alpha_step
        problem = Problem(observation, labels, self.objective(observation),
                          Schedule(self.iterations, self.step_size, self.patience), seed,
                          kind=partial(SurrogateStep, resolution=resolution), scalars=(Scalar(resolution / 2, 0.0, resolution),))
        images, costs, _ = minimise(problem, restarts=self.restarts, progress=progress).best()
        return rebuilt(observation, images, labels, costs, seed)
