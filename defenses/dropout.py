"""Dropout before the classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Defense
from defenses.release import Release
from defenses.step import Facts
from defenses.stochastic import StochasticLayer
from defenses.support import checks
from defenses.support.last_linear import last_linear, replace


class DroppedLinear(StochasticLayer):
    """A linear layer of whose input each entry is zero with probability p, and else divided by 1 - p (Srivastava et al., 2014). In
    evaluation nothing is dropped.

    A sample is the mask of what is kept, zeros and ones; whoever searches for it may relax it to anything in between.

    Args:
        linear: the layer, which needs no bias to compute; without one no attacker reads its input.
        p: probability of each entry to be dropped, above 0, below 1.
    """

    reads_code: ClassVar[str] = "linear"
    hides_features: ClassVar[bool] = False  # a code is what was kept of the features
    samples_in_evaluation: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(self, linear: nn.Linear, p: float) -> None:
        super().__init__()
        self.linear, self.p = linear, p

    @property
    def expected(self) -> float:
        return 1 - self.p

    def drawn(self, noise: Tensor) -> Tensor:
        return (noise < NormalDist().inv_cdf(1 - self.p)).to(noise.dtype)

    def improbability(self, samples: Tensor) -> Tensor:
        # How far the share that is kept is from what is expected (Scheliga et al., AAAI 2023).
        return (samples.flatten(1).mean(1) - self.expected).abs()

    def denoised(self, code: Tensor, deviation: Tensor) -> Tensor:
        return torch.where(code.abs() > 3 * deviation, code, 0)  # what is within the errors was dropped

    def told(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return code * (1 - self.p), code != 0

    def forward(self, h: Tensor) -> Tensor:
        """Features [B, ..., d] to what the linear layer makes of them."""
        self.shape = h.shape[1:]
        kept = self._kept(h)
        return self.linear(h if kept is None else h * (kept / (1 - self.p)))

    def _kept(self, h: Tensor) -> Tensor | float | None:
        if self.code is not None:  # an entry that was zero itself cannot be told from one that was dropped, and counts as such
            self.taken = (self.code != 0).to(h.dtype)
            return self.taken
        if self.epsilon is not None:
            return self.epsilon
        return torch.empty_like(h).bernoulli_(1 - self.p) if self.training else None


@dataclass(frozen=True)
class DroppedFeatures(Defense):
    """Drop features at random before the last linear layer (Srivastava et al., 2014), as a defense (Scheliga et al., AAAI 2023).

    Any model that ends in a linear layer can be extended; dropout that the model has of its own stays beside it. The authors' code
    has dropout where each architecture has it by custom: before the classifier of a ResNet, in an MLP behind every hidden layer,
    and all over a ViT. Here it is before the classifier of all.

    A client's dropout samples while it trains. Of the attackers an informed one knows the layer and p, and has it sample; a blind
    one has the model as it is evaluated, in which nothing is dropped.

    Args:
        p: probability of each feature to be dropped, 0 to below 1.
    """

    name: ClassVar[str] = "dropout"
    summary: ClassVar[str] = "dropout before the last linear layer makes the gradient stochastic"
    paper: ClassVar[str] = "Scheliga et al., AAAI 2023"

    p: float = 0.5

    def __post_init__(self) -> None:
        checks.number("p", self.p, at_least=0, below=1)

    def extend_model(self, module: nn.Module) -> nn.Module:
        name, linear = last_linear(module)
        return replace(module, name, DroppedLinear(linear, self.p)) if self.p > 0 else module

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        # The gradient leaves as it is; what is random is in the model, whose stochastic layers speak for themselves.
        return dict.fromkeys(shared, Release())
