"""Candidates under a defense that does not say what it discloses: the client is run on each, several times."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from attacks.base import Observation, Progress
from attacks.identification.candidates import Candidates
from attacks.identification.pools import of_victims, scored
from defenses.private import simulated_gradient
from defenses.support.seeds import derive

#: Draws of the client's randomness for each candidate.
DRAWS = 4
#: Of the mean square of what is shared, the variance that is taken for nothing but rounding.
_ROUNDING = 1e-6


def by_simulation(observation: Observation, candidates: Candidates, seed: int, tell: Progress) -> Tensor:
    """How unlikely what was shared is under a Gaussian with the mean and the pooled variance of what a client shares of the
    candidate, [N, M].

    It is weak where the randomness is large, since a mean over few draws carries much of it.
    """
    observed = {name: g.flatten(1).double() for name, g in observation.shared.items()}
    size = sum(g.shape[1] for g in observed.values())
    least = {name: _ROUNDING * g.square().mean().clamp_min(torch.finfo(torch.float32).tiny) for name, g in observed.items()}
    # The pooled variance is that of the first candidates: one for all, so that scores can be compared.
    pooled: dict[str, Tensor] = {}

    def score(images: Tensor, labels: Tensor, victims: Tensor) -> Tensor:
        drawn = [_draws(observation, image, label, seed) for image, label in zip(images, labels, strict=True)]
        if not pooled:
            pooled.update({name: torch.stack([draws[name].var(0).mean() for draws in drawn]).mean() for name in observed})
        total = torch.zeros((), dtype=torch.float64, device=images.device)
        for name, g in observed.items():
            means = torch.stack([draws[name].mean(0) for draws in drawn])
            distances = torch.cdist(of_victims(g, victims), means, compute_mode="donot_use_mm_for_euclid_dist").square()
            total = total + distances / (2 * (pooled[name] * (1 + 1 / DRAWS) + least[name]))
        return total

    return scored(candidates, score, partial(int, 16 * (DRAWS + 2) * size), tell)


def _draws(observation: Observation, image: Tensor, label: Tensor, seed: int) -> dict[str, Tensor]:
    """What a client shares of an image, by parameter name [draws, n]; the same randomness for all candidates."""
    assert observation.defense is not None
    number = observation.rounds[0].number if observation.rounds else 0
    seeds = [derive(seed, "client", draw) for draw in range(DRAWS)]
    drawn = [simulated_gradient(observation.defense, observation.module, image[None], label[None], seed=one, round_=number)
             for one in seeds]
    return {name: torch.stack([of[name].flatten().double() for of in drawn]) for name in observation.shared}
