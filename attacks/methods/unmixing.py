"""The same images mixed anew in several rounds, matched together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge
from attacks.reading.labels import known_or_inferred_labels
from attacks.reading.mixtures import mixture_of
from attacks.search.minimise import minimise
from attacks.search.mixtures import Seen
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt

#: One part in so many of the iterations moves the images of all rounds together.
_TOGETHER = 4


@dataclass(frozen=True)
class Unmixing(MatchingAttack):
    """Rebuild the images of which a defense shares mixes, from several rounds together (several mixes of one image give it
    away: Carlini et al., IEEE S&P 2021).

    In three quarters of the iterations the mixes of each round are rebuilt, with their coefficients, which the labels of mixes
    tell, by one minus the cosine of the gradients in the mean over rounds; the images follow by least squares. In the rest the
    images themselves are moved, and mixed in every round. Where signs of pixels are flipped, mixes are rebuilt in all iterations,
    and the images from their absolute values.

    The arguments are those of :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "unmixing"
    summary: ClassVar[str] = "images that are mixed anew in several rounds, with their coefficients, matched together"
    paper: ClassVar[str] = "Carlini et al., IEEE S&P 2021"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("defense", "rounds")

    total_variation: float = 1e-5

    def own_obstacle(self, observation: Observation) -> str | None:
        if observation.mixing is None:
            return "the images are not known to be mixed"
        if observation.mixing.concealing:
            return "the images are the same in all rounds, beside others"
        if len(observation.rounds) < 2:
            return "one round was observed; set evaluation.rounds to observe more"
        return super().own_obstacle(observation)

    def informed_by(self, observation: Observation) -> bool:
        return Attack.informed_by(self, observation)

    def objective(self, observation: Observation) -> Objective:
        return with_knowledge(Objective(terms=(TotalVariation(self.total_variation),)), observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        labels, mixture = known_or_inferred_labels(observation), mixture_of(observation, len(observation.rounds))
        assert mixture is not None
        observed, whole = [Seen(one, self.objective(one)) for one in observation.by_round()], self.iterations
        first = whole - whole // _TOGETHER
        alone = replace(mixture, apart=True)
        problem = Problem(observation, labels, observed[0].objective, Schedule(first, self.step_size, self.patience), seed,
                          mixture=alone, later=tuple(observed[1:]))
        images, costs, (logits,) = found = minimise(problem, restarts=self.restarts, progress=progress and (
            lambda done, _: progress(done, whole)))
        if mixture.of_mixes or first == whole:
            images, costs, (logits,) = found.best()
            images = alone.originals(images, logits)
        else:
            begun = alone.originals(images.flatten(0, 1), logits.flatten(0, 1)).clamp(*observation.box()).unflatten(0, costs.shape)
            problem = problem._replace(mixture=mixture, begin=begun, begin_logits=logits, schedule=Schedule(
                whole - first, self.step_size / 10, self.patience))
            images, costs, _ = minimise(problem, restarts=self.restarts, progress=progress and (
                lambda done, _: progress(first + done, whole))).best()
        if progress is not None:
            progress(whole, whole)
        return rebuilt(observation, images, labels, costs, seed)
