"""A defense for each deterministic stage of a release, of which compositions are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses import Clipped, Defense, Intervals, Release, Scaled, Sign


@dataclass(frozen=True)
class Signs(Defense):
    name: ClassVar[str] = "signs"

    def transform_gradients(self, gradients, step):
        return {name: g.sign() for name, g in gradients.items()}

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release((Sign(),)))


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
class Clipping(Defense):
    name: ClassVar[str] = "clipping"

    norm: float = 2.0

    def transform_gradients(self, gradients, step):
        length = sum(g.square().sum() for g in gradients.values()).sqrt()
        return {name: (self.norm / length).clamp(max=1) * g for name, g in gradients.items()}

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release((Clipped(self.norm, tuple(shared)),)))
