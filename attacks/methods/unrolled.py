"""Matching of an update by simulating the client's local steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from attacks.base import Observation, Progress, Reconstruction
from attacks.engine.updates import UnrolledStep
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.objective import Objective
from attacks.objective.same_epochs import SameEpochs
from attacks.objective.total_variation import TotalVariation
from attacks.reading.informed import with_knowledge
from attacks.reading.labels import as_classes, known_or_inferred_labels
from attacks.search.minimise import minimise
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt
from defenses.support import checks
from defenses.support.seeds import derive
from defenses.support.upload import upload


@dataclass(frozen=True)
class Unrolled(MatchingAttack):
    """Simulate the client's local steps on the candidates, and match the mean of their gradients with the update by the cosine,
    differentiated through all steps (Dimitrov et al., TMLR 2022).

    Which image is in which step nobody knows. So each local epoch has images of its own, which a prior draws together: their mean
    is to be the same in all epochs. At the end the images of later epochs are assigned to those of the first that are nearest to
    them, and averaged. Where a step sees all images of the client there is no order, and one set of images for all steps.

    Labels are put in an order that is drawn at random, the same in all epochs, since theirs in the steps is not known either.
    Images are assigned to those of the same label alone, nearest pairs first; the published code assigns optimally and does not
    look at labels. There the mean is the aggregate of the prior on FEMNIST; on CIFAR-100 it is the largest responses of random
    convolutions.

    Args:
        same_epochs: weight of the prior that all epochs are of the same images, >= 0.
        iterations, step_size, total_variation, restarts, patience: as for :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "unrolled"
    summary: ClassVar[str] = "the client's local steps are simulated, and their update matched by the cosine"
    paper: ClassVar[str] = "Dimitrov et al., TMLR 2022"
    threat_model: ClassVar[str] = "B"
    needs: ClassVar[tuple[str, ...]] = ("updates",)
    takes_updates: ClassVar[bool] = True

    same_epochs: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("same_epochs", self.same_epochs, at_least=0)

    def own_obstacle(self, observation: Observation) -> str | None:
        if not observation.local:
            return "one gradient was shared, and no update of several local steps"
        if observation.summed > 1 or observation.batch_size > observation.local.images_behind(observation.batch_size):
            return "several clients took their own local steps, and the sum of their updates alone is seen"
        return super().own_obstacle(observation)

    def objective(self, observation: Observation) -> Objective:
        terms = (TotalVariation(self.total_variation), SameEpochs(self.same_epochs, _plan(observation).epochs))
        return with_knowledge(Objective(terms=terms), observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        plan = _plan(observation)
        labels = _in_random_order(known_or_inferred_labels(observation), observation, seed)
        # To the search images of other epochs are images like others.
        many = plan.epochs * observation.batch_size
        whole = replace(observation, labels=None, batch_size=many)
        problem = Problem(whole, torch.cat([labels] * plan.epochs, 1), self.objective(observation),
                          Schedule(self.iterations, self.step_size, self.patience), seed,
                          kind=partial(UnrolledStep, batches=plan.batches))
        images, costs, _ = minimise(problem, restarts=self.restarts, progress=progress).best()
        images = _together(images.unflatten(1, (plan.epochs, -1)), as_classes(labels), plan.in_last)
        return rebuilt(observation, images, labels, costs, seed)


class _Plan(NamedTuple):
    """How images are used."""

    epochs: int  #: that have images of their own
    batches: list[slice]  #: of each step, places of images
    in_last: int  #: images of the last epoch that are in any step


def _plan(observation: Observation) -> _Plan:
    local, images = observation.local, observation.batch_size
    size = min(local.batch_size or images, images)
    a_epoch = math.ceil(images / size)
    if a_epoch == 1:
        return _Plan(1, [slice(0, images)] * local.steps, images)
    batches = []
    for step in range(local.steps):
        epoch, place = divmod(step, a_epoch)
        batches.append(slice(epoch * images + place * size, epoch * images + min(images, (place + 1) * size)))
    epochs = math.ceil(local.steps / a_epoch)
    return _Plan(epochs, batches, batches[-1].stop - (epochs - 1) * images)


def _in_random_order(labels: Tensor, observation: Observation, seed: int) -> Tensor:
    """Labels [N, B] or [N, B, classes] of each victim in an order of its own."""
    orders = []
    for victim in observation.victims:
        generator = torch.Generator("cpu").manual_seed(derive(seed, "order", victim))
        orders.append(torch.randperm(labels.shape[1], generator=generator, device="cpu"))
    index = upload(torch.stack(orders), labels.device)
    return torch.stack([own[order] for own, order in zip(labels, index, strict=True)])


def _together(images: Tensor, labels: Tensor, in_last: int) -> Tensor:
    """The images of all epochs [N, E, B, C, H, W] as means over the epochs [N, B, C, H, W], each assigned to one of the first epoch
    that has the same label; of the last epoch the first ``in_last`` alone, since nothing but the prior moved the others."""
    n, epochs, b = images.shape[:3]
    first, total = images[:, 0], images[:, 0].clone()
    count = torch.ones(n, b, dtype=images.dtype, device=images.device)
    other = labels[:, :, None] != labels[:, None]
    victims = torch.arange(n, device=images.device)
    for epoch in range(1, epochs):
        used = in_last if epoch == epochs - 1 else b
        own = images[:, epoch, :used]
        distances = (first[:, :, None] - own[:, None]).square().flatten(3).mean(3)
        distances = distances.masked_fill(other[:, :, :used], torch.inf)
        for _ in range(used):
            # The nearest of all pairs that are left; one of the same label is, as there are as many of them in each epoch.
            nearest = distances.flatten(1).argmin(1)
            place, of = nearest // used, nearest % used
            total[victims, place] += own[victims, of]
            count[victims, place] += 1
            distances[victims, place], distances[victims, :, of] = torch.inf, torch.inf
    return total / count.view(n, b, 1, 1, 1)
