"""What an attack minimises for each victim, and where it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.matcher import GradientMatcher, StepKind, sample_noise
from attacks.objective.objective import Objective
from attacks.reading.mixtures import Mixture
from attacks.search.mixtures import MixtureMatcher, Seen
from attacks.search.schedule import Schedule
from defenses.support.last_linear import last_linear
from defenses.support.seeds import VictimNoise, derive


class Start(NamedTuple):
    """One start of the optimisation of one victim."""

    victim: int  #: position in the observation
    restart: int


class Scalar(NamedTuple):
    """A number for each victim that is a variable of a kind of step."""

    begin: float
    low: float
    high: float


class Problem(NamedTuple):
    """What is to be minimised for each victim, and from which seeds."""

    observation: Observation
    labels: Tensor  #: [N, B]
    objective: Objective
    schedule: Schedule
    seed: int  #: of the starts and of the model's sampling, together with the number of each victim
    begin: Tensor | None = None  #: images [N, restarts, B, C, H, W] to start from instead of noise
    begin_logits: Tensor | None = None  #: [N, restarts, ...], where logits are variables, likewise
    joint: bool = False  #: whether the labels are variables too, as the softmax of logits; ``labels`` are then not read
    mixture: Mixture | None = None  #: what became of the images before the gradient was taken; how, is a variable too
    later: tuple[Seen, ...] = ()  #: further rounds of the same images under the mixture
    kind: StepKind | None = None  #: of the step, where it is not that of the observation
    scalars: tuple[Scalar, ...] = ()  #: what is variable in this kind of step

    def matcher(self, starts: Sequence[Start], *, reloaded: bool) -> GradientMatcher | MixtureMatcher:
        """The matching of some starts, one in each slot."""
        seeds, positions = [self.sampling_seed(start) for start in starts], [start.victim for start in starts]
        if self.mixture is None:
            return GradientMatcher(self.observation, self.labels, self.objective, seeds=seeds, positions=positions,
                                   reloaded=reloaded, kind=self.kind)
        return MixtureMatcher(self.mixture, self.labels, (Seen(self.observation, self.objective), *self.later), seeds=seeds,
                              positions=positions, reloaded=reloaded)

    @property
    def images(self) -> int:
        """How many of a victim are variables."""
        return self.observation.batch_size if self.mixture is None else self.mixture.variables

    def sampling_seed(self, start: Start) -> int:
        return derive(self.seed, "sampling", self.observation.victims[start.victim], start.restart)

    def first_images(self, starts: Sequence[Start]) -> Tensor:
        """Standard normal noise in normalised space [S, B, C, H, W], or where the problem begins."""
        if self.begin is not None:
            return torch.stack([self.begin[start] for start in starts])
        return self._noise(starts, "start", (self.images, *self.observation.image_shape))

    def first_others(self, starts: Sequence[Start]) -> list[Tensor]:
        """Where the labels are variables, or how images are mixed, standard normal noise [S, B, classes], or of the shape of the
        latter, or where the problem begins; where the samples of stochastic layers are, a draw of each layer, [S, B, *shape].
        Before all of these what is variable in the kind of step, [S, 1] each."""
        others = [self.observation.mean.new_full((len(starts), 1), scalar.begin) for scalar in self.scalars]
        if self.begin_logits is not None:
            others.append(torch.stack([self.begin_logits[start] for start in starts]))
        elif (shape := self._logit_shape) is not None:
            others.append(self._noise(starts, "labels", shape))
        if self.objective.sample_prior is not None:
            streams = sample_noise(self.observation, [self.sampling_seed(start) for start in starts])
            others += self.observation.samples_of([stream.draw() for stream in streams])
        return others

    def bounds(self) -> list[tuple[Tensor, Tensor]]:
        """The lowest and the highest valid value of the images, in normalised space, and of each of the others."""
        box = self.observation.box()
        found, mean = [box if self.mixture is None else self.mixture.bounds(*box)], self.observation.mean
        found += [(mean.new_tensor(scalar.low), mean.new_tensor(scalar.high)) for scalar in self.scalars]
        if self._logit_shape is not None:
            found.append((mean.new_tensor(-torch.inf), mean.new_tensor(torch.inf)))
        if self.objective.sample_prior is not None:
            found += [(mean.new_tensor(low), mean.new_tensor(high))
                      for low, high in (layer.bounds for layer in self.observation.stochastic.values())]
        return found

    @property
    def _logit_shape(self) -> tuple[int, ...] | None:
        """Of the logits of one victim, where there are some."""
        if self.mixture is not None:
            return self.mixture.logit_shape
        return (self.observation.batch_size, last_linear(self.observation.module)[1].out_features) if self.joint else None

    def _noise(self, starts: Sequence[Start], what: str, shape: tuple[int, ...]) -> Tensor:
        seeds = [derive(self.seed, self.observation.victims[start.victim], what, start.restart) for start in starts]
        return VictimNoise(seeds, shape, self.observation.mean).draw()
