"""A defense that discloses intervals: entries are rounded to the middles of intervals of a width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses import Defense, Intervals, Release


@dataclass(frozen=True)
class Rounded(Defense):
    """Share the middle of the interval that an entry lies in."""

    name: ClassVar[str] = "rounded"
    summary: ClassVar[str] = "entries are rounded to the middles of intervals"
    paper: ClassVar[str] = "a test"

    width: float = 1e-3

    def transform_gradients(self, gradients, step):
        return {name: self._round(g) for name, g in gradients.items()}

    def release(self, shared, facts):
        # Rounding of floats can put an entry beside the bound between two intervals.
        return dict.fromkeys(shared, Release((Intervals(0.5001 * self.width, 0.5001 * self.width, self._round),)))

    def _round(self, gradient):
        return (torch.floor(gradient / self.width) + 0.5) * self.width
