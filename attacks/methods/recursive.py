"""Reading a network layer by layer, from the last to the image, and searching in the first layers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.base import Attack, Observation, Progress, Reconstruction
from attacks.methods.matching_attack import MatchingAttack
from attacks.objective.comparison import layer_of
from attacks.objective.costs import Cosine
from attacks.objective.features import Features
from attacks.objective.objective import Objective
from attacks.objective.total_variation import TotalVariation
from attacks.reading.backwards import Known
from attacks.reading.chain import Link
from attacks.reading.labels import as_classes, known_or_inferred_labels
from attacks.reading.layers import concealed
from attacks.reading.mixtures import mixture_of
from attacks.reading.recursion import read_backwards, recursion_obstacle
from attacks.reading.releases import parts_left, told
from attacks.search.minimise import minimise
from attacks.search.problem import Problem
from attacks.search.schedule import Schedule
from attacks.undone import rebuilt
from defenses.support import checks


@dataclass(frozen=True)
class Recursive(MatchingAttack):
    """Read what entered each layer from its gradient, from the last layer on (R-GAP; Zhu & Blaschko, ICLR 2021), and match the
    gradients of the first layers alone, under the errors that are known then (ours).

    Read to the end, an untrained LeNet gives its image exactly, without search (:mod:`attacks.reading.recursion`). The first layers
    of a trained one are badly conditioned: small errors of what is read grow from layer to layer. They are matched with
    a prior instead, which is an easier problem than the whole network: what leaves them is known, and so is the derivative of the
    loss by it, which does not change with the candidate. Features that dropout left out, and what was hidden of gradients or
    cut from their rank, give no equations to who knows of it; the others are enough where a layer has many outputs. Features that
    the gradient of the last layer hides, as under Soteria, are told by the layer before it.

    Of an image beside which another conceals it both are read and matched (:mod:`attacks.reading.concealed`), and the gradient of
    the first layer is left out, of which the concealing image makes most (untrained LeNet, 8 victims, 300 iterations, total
    variation 1e-3: SSIM 0.46 with it, 0.85 without).

    The order of attack is that of the layers, so that only models apply that run one after another: convolutions, linear layers and
    activations that can be inverted.

    Args:
        matched: first layers with parameters that are matched, >= 0; with 0 the image is read.
        solver: iterations of the linear solver for each layer that is read, >= 1. More read badly conditioned layers better: of a
            trained LeNet, matched=0, 16 CIFAR-10 victims, ASR 0.06 with 400, 0.88 with 3,000.
        iterations, step_size, total_variation, restarts, patience: of the matching, as for
            :class:`attacks.methods.matching_attack.MatchingAttack`.
    """

    name: ClassVar[str] = "recursive"
    summary: ClassVar[str] = "reads layer after layer from the last to the image, or matches the first ones under known errors"
    paper: ClassVar[str] = "Zhu & Blaschko, ICLR 2021"
    threat_model: ClassVar[str] = "B"

    total_variation: float = 3e-2
    matched: int = 2
    solver: int = 400

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("matched", self.matched, at_least=0)
        checks.whole("solver", self.solver, at_least=1)

    @property
    def searches(self) -> bool:
        return self.matched > 0

    def own_obstacle(self, observation: Observation) -> str | None:
        if observation.mixing is not None and self.matched and not concealed(observation):
            return "the image that layers see is not the client's; with matched=0 it is read, and its signs left out"
        return recursion_obstacle(observation)

    def informed_by(self, observation: Observation) -> bool:
        return Attack.informed_by(self, observation)

    def reconstruct(self, observation: Observation, *, seed: int, progress: Progress | None = None) -> Reconstruction:
        self.check(observation)
        labels = as_classes(known_or_inferred_labels(observation))
        links, known = read_backwards(observation, self.matched, self.solver)
        if not links:
            images = known.value.to(observation.mean)[:, :1].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            if observation.mixing is not None and observation.mixing.flipped:
                images = images.abs()
            if progress is not None:
                progress(1, 1)
            return rebuilt(observation, images, labels, images.new_zeros(len(observation)), seed)
        problem = Problem(*of_first_layers(observation, links, known, self.total_variation),
                          Schedule(self.iterations, self.step_size, self.patience), seed, mixture=mixture_of(observation))
        images, costs, _ = minimise(problem, restarts=self.restarts, progress=progress).best()
        return rebuilt(observation, images[:, :1], labels, costs, seed)


def of_first_layers(observation: Observation, links: list[Link], known: Known, total_variation: float
                     ) -> tuple[Observation, Tensor, Objective]:
    """The observation of the first layers alone, labels that nothing reads, and what is minimised in it."""
    end = str(len(links))
    module = nn.Sequential(*(link.module for link in links), nn.Identity()).eval()
    shared = {f"{place}.{child}": observation.shared[f"{link.name}.{child}"]
              for place, link in enumerate(links) for child, p in link.module.named_parameters() if p.requires_grad}
    altered = {f"{place}.{child}": f"{link.name}.{child}" for place, link in enumerate(links)
               for child, _ in link.module.named_parameters() if f"{place}.{child}" in shared}
    altered = {own: name for own, name in altered.items() if parts_left(observation, name) is not None}
    known_of = told(observation)
    passes = {own: known_of.passes[name] for own, name in altered.items() if name in known_of.passes}
    masks = {own: known_of.masks[name] for own, name in altered.items() if name in known_of.masks}
    first = Observation(module, shared, 1, observation.image_shape, observation.mean, observation.std,
                        torch.zeros(len(observation), 1, dtype=torch.long, device=observation.device), victims=observation.victims)
    value, error = (part.to(observation.mean).nan_to_num() for part in known[:2])
    error = error * error.shape[1]  # of the mean over images
    where = None if known.where is None else known.where.flatten(2)
    terms = (Features(1.0, end, value.flatten(2), where), TotalVariation(total_variation))
    # Of a concealing image, whose pixels have no range, the gradient of the first layer says more than of the image beside it.
    later = tuple(dict.fromkeys(layer_of(name) for name in shared))[1:]
    layers = later if later and error.shape[1] > 1 else None
    assert first.labels is not None
    return first, first.labels, Objective(Cosine(per_layer=True), terms, layers=layers, passes=passes, masks=masks, errors=error)
