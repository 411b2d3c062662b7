"""Pruning of the shared gradient by magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses import checks
from defenses.base import Defense, Gradients


@dataclass(frozen=True)
class GradientPruning(Defense):
    """Set the entries of smallest magnitude to zero (gradient compression; Zhu et al., NeurIPS 2019, section 5.2).

    The share is taken of each parameter's tensor on its own, as in Scheliga et al. (WACV 2022), not of the whole gradient.
    Exactly floor(p * entries) entries become zero, also among equal magnitudes.

    Args:
        p: share of the entries of each tensor that is set to zero, 0 <= p <= 1.
    """

    name: ClassVar[str] = "pruning"
    summary: ClassVar[str] = "the share p of smallest magnitude of each gradient tensor is set to zero"
    paper: ClassVar[str] = "Zhu et al., NeurIPS 2019"

    p: float = 0.9

    def __post_init__(self) -> None:
        checks.number("p", self.p, at_least=0, at_most=1)

    def transform_gradients(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: self._prune(g) for name, g in gradients.items()}

    def _prune(self, gradient: torch.Tensor) -> torch.Tensor:
        flat = gradient.flatten()
        # The small term keeps a product such as 0.7 * 10 = 6.999... from losing an entry to rounding.
        count = int(self.p * flat.numel() + 1e-9)
        if count == 0:
            return gradient
        smallest = flat.abs().topk(count, largest=False, sorted=False).indices
        return flat.index_fill(0, smallest, 0.0).view_as(gradient)
