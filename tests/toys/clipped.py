"""A defense that clips the whole gradient, by someone who knows nothing of DP-SGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses import Clipped, Defense, Release


@dataclass(frozen=True)
class WholeClipped(Defense):
    """Scale the gradient to a norm of at most ``norm``."""

    name: ClassVar[str] = "clipped"
    summary: ClassVar[str] = "the whole gradient is clipped to a norm"
    paper: ClassVar[str] = "a test"

    norm: float = 0.1

    def transform_gradients(self, gradients, step):
        length = sum(g.square().sum() for g in gradients.values()).sqrt()
        return {name: (self.norm / length).clamp(max=1) * g for name, g in gradients.items()}

    def release(self, shared, facts):
        return dict.fromkeys(shared, Release((Clipped(self.norm, tuple(shared)),)))
