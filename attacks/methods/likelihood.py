"""Matching by the likelihood of a gradient with known noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.base import Observation, Progress, Reconstruction
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.reading.informed import by_features, layers_and_features, posterior
from attacks.reading.labels import known_or_inferred_labels
from attacks.reading.releases import told
from attacks.search.minimise import minimise
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt
from defenses.support import checks

#: Weight of the prior in the part that begins with features, that of ``feature-matching``.
_BEGUN_WITH = 3e-2


@dataclass(frozen=True)
class Likelihood(MatchingAttack):
    """Maximise the posterior of the images given a gradient with Gaussian noise of known variance (Balunovic et al., ICLR 2022; for
    Laplacian noise the Gaussian of the same variance).

    The objective is |s g - G|^2 / (2 sigma^2 n) + total variation, over the n entries that carry noise. The scale s is 1, or that
    to which a candidate's own gradient is clipped; where other images were clipped beside it, the one that fits best. Codes of
    stochastic layers are replayed, and hidden entries left out. Parameters whose release has a likelihood of its own count by that.
    Where noise leaves the gradients of a stochastic layer alone, they tell the features that enter it exactly, which are then
    matched with a large weight.

    On a trained model the gradients of the layers differ by orders of magnitude, and with them the scales of the landscape: from
    noise the search then ends far from the original (LeNet, digits, 20 epochs, noise of 0.001, 32 victims, 300 iterations: SSIM
    0.27). So it can begin with what ``feature-matching`` finds in three quarters of the iterations, from which the likelihood
    goes on with a tenth of the step size and the scale that fits best (0.69; of 16 victims 0.65 after the first part, 0.67 then).

    Args:
        total_variation: weight of the prior, >= 0.
        begin: ``random``, as other attacks do, better for an untrained model, or ``features``, better for a trained one.
        iterations, step_size, restarts, patience: as for :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "likelihood"
    summary: ClassVar[str] = "likelihood of the gradient under the known noise, with an image prior"
    paper: ClassVar[str] = "Balunovic et al., ICLR 2022"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("defense",)

    total_variation: float = 0.1
    begin: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("begin", self.begin, ("random", "features"))

    def own_obstacle(self, observation: Observation) -> str | None:
        if observation.defense is None:
            return "a blind attacker does not know of noise"
        known = told(observation)
        if not (known.variances or known.judges):
            return "the gradient carries no noise of known variance, nor is its likelihood told otherwise"
        if self.begin == "features" and observation.mixing is not None:
            return "features of mixed images are those of no image that the search could begin with"
        if self.begin == "features" and isinstance(found := layers_and_features(observation), str):
            return found
        return super().own_obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        objective = posterior(observation, self.total_variation)
        return objective if self.begin == "random" else replace(objective, cost=objective.cost.of_scale(clip=None, free=True))

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        first = 3 * self.iterations // 4
        if self.begin == "random" or not first:
            return super().reconstruct(observation, seed=seed, progress=progress)
        self.check(observation)
        labels, total = known_or_inferred_labels(observation), self.iterations
        schedule = Schedule(first, self.step_size, self.patience)
        alone = Problem(observation, labels, by_features(observation, _BEGUN_WITH), schedule, seed)
        begun = minimise(alone, restarts=self.restarts, progress=progress and (lambda done, _: progress(done, total))).images
        schedule = Schedule(total - first, self.step_size / 10, self.patience)
        problem = Problem(observation, labels, self.objective(observation), schedule, seed, begun)
        images, costs, _ = minimise(problem, restarts=self.restarts, progress=progress and (
            lambda done, _: progress(first + done, total))).best()
        return rebuilt(observation, images, labels, costs, seed)
