"""What an attack minimises for each victim, and where it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.matcher import GradientMatcher, sample_noise
from attacks.objective.objective import Objective
from attacks.search.schedule import Schedule
from defenses.support.last_linear import last_linear
from defenses.support.seeds import VictimNoise, derive


class Start(NamedTuple):
    """One start of the optimisation of one victim."""

    victim: int  #: position in the observation
    restart: int


class Problem(NamedTuple):
    """What is to be minimised for each victim, and from which seeds."""

    observation: Observation
    labels: Tensor  #: [N, B]
    objective: Objective
    schedule: Schedule
    seed: int  #: of the starts and of the model's sampling, together with the number of each victim
    begin: Tensor | None = None  #: images [N, restarts, B, C, H, W] to start from instead of noise
    joint: bool = False  #: whether the labels are variables too, as the softmax of logits; ``labels`` are then not read

    def matcher(self, starts: Sequence[Start], *, reloaded: bool) -> GradientMatcher:
        """The matching of some starts, one in each slot."""
        return GradientMatcher(self.observation, self.labels, self.objective, seeds=[self.sampling_seed(start) for start in starts],
                               positions=[start.victim for start in starts], reloaded=reloaded)

    def sampling_seed(self, start: Start) -> int:
        return derive(self.seed, "sampling", self.observation.victims[start.victim], start.restart)

    def first_images(self, starts: Sequence[Start]) -> Tensor:
        """Standard normal noise in normalised space [S, B, C, H, W], or where the problem begins."""
        if self.begin is not None:
            return torch.stack([self.begin[start] for start in starts])
        return self._noise(starts, "start", (self.observation.batch_size, *self.observation.image_shape))

    def first_others(self, starts: Sequence[Start]) -> list[Tensor]:
        """Where the labels are variables, standard normal noise [S, B, classes]; where the samples of stochastic layers are, a draw
        of each layer, [S, B, *shape]."""
        others = []
        if self.joint:
            classes = last_linear(self.observation.module)[1].out_features
            others.append(self._noise(starts, "labels", (self.observation.batch_size, classes)))
        if self.objective.sample_prior is not None:
            streams = sample_noise(self.observation, [self.sampling_seed(start) for start in starts])
            others += self.observation.samples_of([stream.draw() for stream in streams])
        return others

    def bounds(self) -> list[tuple[Tensor, Tensor]]:
        """The lowest and the highest valid value of the images, in normalised space, and of each of the others."""
        mean, std = (t.view(-1, 1, 1) for t in (self.observation.mean, self.observation.std))
        found = [(-mean / std, (1 - mean) / std)]
        if self.joint:
            found.append((mean.new_tensor(-torch.inf), mean.new_tensor(torch.inf)))
        if self.objective.sample_prior is not None:
            found += [(mean.new_tensor(low), mean.new_tensor(high))
                      for low, high in (layer.bounds for layer in self.observation.stochastic.values())]
        return found

    def _noise(self, starts: Sequence[Start], what: str, shape: tuple[int, ...]) -> Tensor:
        seeds = [derive(self.seed, self.observation.victims[start.victim], what, start.restart) for start in starts]
        return VictimNoise(seeds, shape, self.observation.mean).draw()
