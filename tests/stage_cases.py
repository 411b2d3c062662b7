"""Defenses for the stages of a release, and compositions of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

import defenses
from defenses import Composition, Defense, Intervals, Release, Scaled


@dataclass(frozen=True)
class Rounding(Defense):
    name: ClassVar[str] = "rounding"

    width: float = 0.5

    def transform_gradients(self, gradients, step):
        return {name: torch.round(g / self.width) * self.width for name, g in gradients.items()}

    def release(self, shared, facts):
        half = self.width * (0.5 + 1e-6)
        return dict.fromkeys(shared, Release((Intervals(half, half, lambda g: torch.round(g / self.width) * self.width),)))


@dataclass(frozen=True)
class Scaling(Defense):
    name: ClassVar[str] = "scaling"

    factor: float = -2.0

    def transform_gradients(self, gradients, step):
        return {name: self.factor * g for name, g in gradients.items()}

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release((Scaled(self.factor),)))


@dataclass(frozen=True)
class Stochastic(Rounding):
    """Rounding up or down at random, so that a candidate cannot be passed through it."""

    name: ClassVar[str] = "stochastic"

    width: float = 0.02

    def transform_gradients(self, gradients, step):
        return {name: torch.floor(g / self.width + torch.empty_like(g).uniform_(generator=step.generator)) * self.width
                for name, g in gradients.items()}

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release((Intervals(self.width, self.width),)))


NOISE, LAPLACIAN = (defenses.NoisyGradients(std=0.05, distribution=distribution) for distribution in defenses.stages.DISTRIBUTIONS)
PRUNING, CLIPPING, SIGNS = defenses.GradientPruning(p=0.7), defenses.GradientClipping(norm=0.3), defenses.GradientSigns()
ROUNDING, SCALING = Rounding(width=0.02), Scaling(-2.0)


def chain(*members: Defense) -> Defense:
    return members[0] if len(members) == 1 else Composition(members)


def ids(members) -> str:
    return "+".join(member.label for member in members)
