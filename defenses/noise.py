"""Noise on the shared gradient. This is the file to copy for a defense of your own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import Noise
from defenses.step import Facts, Gradients, Step
from defenses.support import checks


@dataclass(frozen=True)
class NoisyGradients(Defense):
    """Add independent noise to every entry of the gradient (Zhu et al., NeurIPS 2019, section 5.1).

    The noise is not calibrated to a sensitivity, so there is no privacy guarantee; for one see ``dp-sgd``.

    Args:
        std: standard deviation of the noise, absolute (not relative to the gradient), for both distributions, >= 0.
        distribution: ``gaussian`` or ``laplacian``.
    """

    # What `leakboard list` and the tables show.
    name: ClassVar[str] = "noise"
    summary: ClassVar[str] = "Gaussian or Laplacian noise of a fixed standard deviation on the gradient"
    paper: ClassVar[str] = "Zhu et al., NeurIPS 2019"

    # The parameters, with their defaults; the first one is always shown.
    std: float = 0.01
    distribution: str = "gaussian"

    def __post_init__(self) -> None:
        checks.number("std", self.std, at_least=0)
        checks.choice("distribution", self.distribution, ("gaussian", "laplacian"))

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        # Randomness comes from the step's generator, and what is given is not written into.
        if self.std == 0:
            return gradients
        return {name: g + self._sample(g, step.generator) for name, g in gradients.items()}

    def shared_among(self, clients: int, local_steps: int = 1) -> NoisyGradients:
        # Of a sum that a server sees in the place of what each client shares, each adds a share of the noise.
        return replace(self, std=self.std / math.sqrt(clients))

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        # What a server that knows this defense can conclude; without this hook attackers would know nothing in particular.
        noise = Release((Noise(self.std**2, self.distribution),)) if self.std > 0 else Release()
        return dict.fromkeys(shared, noise)

    def _sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        if self.distribution == "gaussian":
            return torch.empty_like(like).normal_(0.0, self.std, generator=generator)
        # A Laplacian of scale b has standard deviation b * sqrt(2), and is a difference of two exponentials of mean b.
        rate = math.sqrt(2) / self.std
        positive = torch.empty_like(like).exponential_(rate, generator=generator)
        return positive - torch.empty_like(like).exponential_(rate, generator=generator)
