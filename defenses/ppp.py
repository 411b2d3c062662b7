"""PPP: PRECODE with partial perturbation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from defenses.base import Defense
from defenses.noise import NoisyGradients
from defenses.precode import PRECODE
from defenses.pruning import GradientPruning
from defenses.release import Release
from defenses.step import Facts, Gradients, Step
from defenses.support import checks


@dataclass(frozen=True)
class PPP(PRECODE):
    """PRECODE, and a perturbation of the gradients of the layers before the bottleneck alone (Scheliga et al., 2022).

    It is the authors' answer to attackers who match only those layers, whose gradients the bottleneck's sampling protects least.

    Args:
        strength: the standard deviation of Gaussian noise, >= 0, or the share that is pruned of each tensor, 0 to 1.
        perturbation: ``noise`` or ``pruning``.
        bottleneck_size, beta: as for :class:`defenses.precode.PRECODE`.
    """

    name: ClassVar[str] = "ppp"
    summary: ClassVar[str] = "PRECODE, with noise on or pruning of the gradients before the bottleneck"
    paper: ClassVar[str] = "Scheliga et al., 2022"

    strength: float = 1e-3
    perturbation: str = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("perturbation", self.perturbation, ("noise", "pruning"))
        self._perturb()  # which checks the strength

    def perturbed(self, names: Iterable[str]) -> set[str]:
        """Of the names of all parameters, those that are perturbed: all but the bottleneck's and the classifier's behind it."""
        names = list(names)
        first = "bottleneck.encoder.weight"
        inserted = [name.removesuffix(first) for name in names if name.endswith(first)]
        behind = tuple(prefix + child for prefix in inserted for child in ("bottleneck.", "classifier."))
        return {name for name in names if not name.startswith(behind)}

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        chosen = self.perturbed(gradients)
        changed = self._perturb().transform_gradients({name: g for name, g in gradients.items() if name in chosen}, step)
        return {name: changed.get(name, g) for name, g in gradients.items()}

    def shared_among(self, clients: int, local_steps: int = 1) -> PPP:
        return replace(self, strength=self.strength / math.sqrt(clients)) if self.perturbation == "noise" else self

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        chosen = self.perturbed(shared)
        told = self._perturb().release({name: g for name, g in shared.items() if name in chosen}, facts)
        return {name: told.get(name, Release()) for name in shared}

    def _perturb(self) -> Defense:
        return NoisyGradients(std=self.strength) if self.perturbation == "noise" else GradientPruning(p=self.strength)
