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

#: Of the step size, with which the likelihood goes on from what it begins with.
_GOING_ON = 0.3


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
    noise the search then ends far from the original. So it can begin with what ``feature-matching`` finds in half of the
    iterations, from which the likelihood goes on with three tenths of the step size and the scale that fits best. That takes many
    iterations (trained LeNet, noise of 0.01, 16 CIFAR-10 test images; after 300 of the first part ASR 0.56, mean SSIM 0.60; 150
    more under the likelihood 0.94, 0.68; 450 more 1.00, 0.73; 450 more of the first part instead 0.69, 0.61).

    Args:
        total_variation: weight of the prior, >= 0.
        begin: ``random``, as other attacks do, better for an untrained model, or ``features``, better for a trained one.
        begin_total_variation: weight of the prior, >= 0, in the part that begins with features, as for ``feature-matching``.
        iterations, step_size, restarts, patience: as for :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "likelihood"
    summary: ClassVar[str] = "likelihood of the gradient under the known noise, with an image prior"
    paper: ClassVar[str] = "Balunovic et al., ICLR 2022"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("defense",)

    total_variation: float = 0.1
    begin: str = "random"
    begin_total_variation: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("begin", self.begin, ("random", "features"))
        checks.number("begin_total_variation", self.begin_total_variation, at_least=0)

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
        first = self.iterations // 2
        if self.begin == "random" or not first:
            return super().reconstruct(observation, seed=seed, progress=progress)
        self.check(observation)
        labels, total = known_or_inferred_labels(observation), self.iterations
        schedule = Schedule(first, self.step_size, self.patience)
        alone = Problem(observation, labels, by_features(observation, self.begin_total_variation), schedule, seed)
        begun = minimise(alone, restarts=self.restarts, progress=progress and (lambda done, _: progress(done, total))).images
        schedule = Schedule(total - first, _GOING_ON * self.step_size, self.patience)
        problem = Problem(observation, labels, self.objective(observation), schedule, seed, begun)
        images, costs, _ = minimise(problem, restarts=self.restarts, progress=progress and (
            lambda done, _: progress(first + done, total))).best()
        return rebuilt(observation, images, labels, costs, seed)
