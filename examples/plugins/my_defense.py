"""A defense of your own: the hooks that it needs, and what it discloses. See run.sh."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from defenses import Defense, Intervals, Release
from defenses.support import checks


@dataclass(frozen=True)
class RoundedGradients(Defense):
    """Round every entry of the gradient to a multiple of ``width``."""

    name = "rounded"
    summary = "entries are rounded to multiples of a width"

    width: float = 1e-3  # a parameter: --defense "rounded(width=0.01)"

    def __post_init__(self):
        checks.number("width", self.width, above=0)

    def _round(self, gradient):
        return self.width * torch.round(gradient / self.width)

    def transform_gradients(self, gradients, step):
        return {name: self._round(gradient) for name, gradient in gradients.items()}

    def release(self, shared, facts):
        """What a server that knows the defense concludes: each entry lay within half a width of what was shared."""
        return dict.fromkeys(shared, Release((Intervals(self.width / 2, self.width / 2, self._round),)))
