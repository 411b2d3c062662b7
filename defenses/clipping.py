"""Clipping of the shared gradient to a norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import Clipped
from defenses.step import Facts, Gradients, Step
from defenses.support import checks


@dataclass(frozen=True)
class GradientClipping(Defense):
    """Scale the gradient down to a Euclidean norm where it is longer (Pascanu et al., ICML 2013, algorithm 1).

    It is the gradient of the whole batch that is clipped, not that of each image, and no noise follows: there is no privacy
    guarantee; for one see ``dp-sgd``. For a curve the norm is swept over [0.01, 0.1, 1.0, 10.0].

    Args:
        norm: the largest, > 0.
        per: ``whole`` for the norm of the whole gradient, ``tensor`` for that of each parameter's by itself.
    """

    name: ClassVar[str] = "clipping"
    summary: ClassVar[str] = "the gradient, or each tensor of it, is scaled down to a norm where it is longer"
    paper: ClassVar[str] = "Pascanu et al., ICML 2013"

    norm: float = 1.0
    per: str = "whole"

    def __post_init__(self) -> None:
        checks.number("norm", self.norm, above=0)
        checks.choice("per", self.per, ("whole", "tensor"))

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        squared = {name: g.square().sum() for name, g in gradients.items()}
        if self.per == "whole":
            squared = dict.fromkeys(gradients, torch.stack(list(squared.values())).sum())
        return {name: self._clip(name, gradients).factor(squared[name]) * g for name, g in gradients.items()}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return {name: Release((self._clip(name, shared),)) for name in shared}

    def _clip(self, name: str, of: Mapping[str, object]) -> Clipped:
        return Clipped(self.norm, tuple(of) if self.per == "whole" else (name,))
