"""Candidates under a defense that does not say what it discloses: the client is run on each, several times."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.base import Observation, Progress
from attacks.identification.candidates import Candidates
from attacks.identification.likelihood import ROUNDING
from attacks.identification.pools import of_victims, scored
from defenses.private import simulated_gradient
from defenses.support.seeds import derive

#: Draws of the client's randomness for each candidate.
DRAWS = 4


def by_simulation(observation: Observation, candidates: Candidates, seed: int, tell: Progress) -> Tensor:
    """Minus the logarithm of the likelihood, [N, M], under a Gaussian with the mean of what a client shares of the candidate and
    with its variance, one for all entries of a parameter.

    Candidates are given the same draws, so that noise that is merely added is the same for all, and costs no more than a variance
    larger by a quarter: of 24 victims among 40 (LeNet, CIFAR-10) noise of 0.01 that is not disclosed leaves 1.00, of 0.03 0.46,
    where the likelihood has 1.00 and 0.50. It is weak where what is random depends on the candidate.
    """
    module = _at_the_client(observation.module)
    observed = {name: g.flatten(1).double() for name, g in observation.shared.items()}

    def score(images: Tensor, labels: Tensor, victims: Tensor) -> Tensor:
        drawn = [_draws(observation, module, image, label, seed) for image, label in zip(images, labels, strict=True)]
        found = torch.zeros((), dtype=torch.float64, device=images.device)
        for name, g in observed.items():
            given = of_victims(g, victims)
            least = ROUNDING**2 * given.square().mean(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            means = torch.stack([own[name].mean(0) for own in drawn])
            variances = (1 + 1 / DRAWS) * torch.stack([own[name].var(0).mean() for own in drawn]) + least
            distances = torch.cdist(given, means, compute_mode="donot_use_mm_for_euclid_dist").square()
            found = found + 0.5 * (distances / variances + g.shape[1] * variances.log())
        return found

    size = sum(g.shape[1] for g in observed.values())
    return scored(candidates, score, partial(int, 16 * (DRAWS + 2) * size), tell)


def _at_the_client(module: nn.Module) -> nn.Module:
    """A copy as clients compute with it: in training mode, but for batch norm, of which one image has no statistics."""
    module = copy.deepcopy(module).train()
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
    return module


def _draws(observation: Observation, module: nn.Module, image: Tensor, label: Tensor, seed: int) -> dict[str, Tensor]:
    """What a client shares of an image, by parameter name [draws, n]; the same randomness for all candidates."""
    assert observation.defense is not None
    number = observation.rounds[0].number if observation.rounds else 0
    seeds = [derive(seed, "client", draw) for draw in range(DRAWS)]
    # Of a sum over clients, as if all had the image.
    images, labels = (of[None].expand(observation.defense.summed, *of.shape) for of in (image, label))
    drawn = [simulated_gradient(observation.defense, module, images, labels, seed=one, round_=number,
                                local=observation.local)
             for one in seeds]
    return {name: torch.stack([of[name].flatten().double() for of in drawn]) for name in observation.shared}
