"""Pruning of the shared gradient by magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import Kept
from defenses.step import Facts, Gradients, Step
from defenses.support import checks
from defenses.support.smallest import without_smallest


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

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        return {name: self._prune(g) for name, g in gradients.items()}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        entries = {name: p.numel() for name, p in facts.module.named_parameters()}
        return {name: self._told(entries[name], g) for name, g in shared.items()}

    def _told(self, entries: int, shared: Tensor | None) -> Release:
        count = self._count(entries)
        if count == 0:
            return Release()
        return Release((Kept.largest(entries - count, shared),))

    def _count(self, entries: int) -> int:
        # The small term keeps a product such as 0.7 * 10 = 6.999... from losing an entry to rounding.
        return int(self.p * entries + 1e-9)

    def _prune(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten()
        count = self._count(flat.numel())
        if count == 0:
            return gradient
        return without_smallest(flat, count).view_as(gradient)
