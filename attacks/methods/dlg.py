"""Deep Leakage from Gradients, and its improvement by inferred labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.engine import memory
from attacks.objective.objectives import Objective
from attacks.reading.knowledge import with_knowledge
from attacks.reading.labels import as_classes, known_or_inferred_labels, label_obstacle
from attacks.search.lbfgs import BatchedLBFGS
from attacks.search.problem import Problem, Start
from attacks.search.schedule import Schedule
from attacks.search.width import choose_width, even, filled
from defenses.support import checks
from defenses.support.last_linear import last_linear
from defenses.support.seeds import VictimNoise, derive
from defenses.support.upload import upload


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

    def obstacle(self, observation: Observation) -> str | None:
        return label_obstacle(observation)

    def informed_by(self, observation: Observation) -> bool:
        if not super().informed_by(observation):
            return False
        assert observation.defense is not None
        return observation.defense.regularized or not self._objective(observation).same_as(self._objective(observation.blind()))

    def _objective(self, observation: Observation) -> Objective:
        return with_knowledge(Objective(cost="euclidean"), observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        labels = as_classes(known_or_inferred_labels(observation)) if self.joint else known_or_inferred_labels(observation)
        schedule = Schedule(self.iterations, self.step_size, self.iterations)
        problem = Problem(observation, labels, self._objective(observation), schedule, seed)
        starts = [Start(victim, restart) for restart in range(self.restarts) for victim in range(len(observation))]
        width = choose_width(problem, starts)
        told = 0
        found: list[tuple[Tensor, ...]] = []
        done = 0

        def tell(iteration: int) -> None:
            nonlocal told
            shares = done * self.iterations + iteration * min(width, len(starts) - done)
            if progress is not None and (at := shares // len(starts)) > told:
                told = at
                progress(told, self.iterations)

        while done < len(starts):
            part = starts[done : done + width]
            try:
                # Slots that are left over compute what nobody reads (attacks.search.width).
                minimised = self._minimise(problem, part + part[:1] * (filled(len(part), width) - len(part)), tell)
                found.append(tuple(column[: len(part)] for column in minimised))
                done += len(part)
                continue
            except Exception as error:
                failure = error
            width = even(memory.half_of(width, failure, observation.device))
        images, labels, costs = (torch.cat(column).unflatten(0, (self.restarts, -1)) for column in zip(*found, strict=True))
        best, victims = costs.argmin(0), torch.arange(len(observation), device=costs.device)
        return Reconstruction(observation.to_pixels(images[best, victims]), as_classes(labels[best, victims]), costs[best, victims])

    def _minimise(self, problem: Problem, starts: list[Start], tell: Callable[[int], None]) -> tuple[Tensor, Tensor, Tensor]:
        matcher = problem.matcher(starts, reloaded=False)
        images = problem.first_images(starts)
        labels = problem.labels[upload([start.victim for start in starts], images.device)]
        logits = _first_logits(problem, starts) if self.joint else images.new_zeros(*labels.shape[:2], 0)
        entries = images[0].numel()
        optimizer = BatchedLBFGS(torch.cat((images.flatten(1), logits.flatten(1)), 1), step_size=self.step_size)
        best, lowest = optimizer.points.clone(), images.new_full((len(starts),), torch.inf)
        for iteration in range(self.iterations):
            x, y = optimizer.points[:, :entries].view_as(images), optimizer.points[:, entries:].view_as(logits)
            if self.joint:
                derivative, by_logits, objective = matcher.step_with_labels(x, y)
                derivative = torch.cat((derivative.flatten(1), by_logits.flatten(1)), 1)
            else:
                derivative, objective = matcher.step(x)
                derivative = derivative.flatten(1)
            lower = objective < lowest  # false for what is not a number
            best, lowest = torch.where(lower[:, None], optimizer.points, best), torch.where(lower, objective, lowest)
            optimizer.step(derivative)
            tell(iteration + 1)
        if self.joint:
            labels = best[:, entries:].view_as(logits).argmax(-1)
        return best[:, :entries].view_as(images), labels, lowest


@dataclass(frozen=True)
class IDLG(DLG):
    """As DLG, but the label is read from the gradient of the last layer first (Zhao et al., 2020). The arguments are those of
    :class:`DLG`."""

    name: ClassVar[str] = "idlg"
    summary: ClassVar[str] = "the label is read first, then Euclidean matching with L-BFGS"
    paper: ClassVar[str] = "Zhao et al., 2020"

    joint: ClassVar[bool] = False


def _first_logits(problem: Problem, starts: list[Start]) -> Tensor:
    """Standard normal noise [S, B, classes]."""
    observation = problem.observation
    seeds = [derive(problem.seed, observation.victims[start.victim], "labels", start.restart) for start in starts]
    return VictimNoise(seeds, (observation.batch_size, last_linear(observation.module)[1].out_features), observation.mean).draw()
