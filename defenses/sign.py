"""The signs of the gradient alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from defenses.base import Defense
from defenses.release import Release
from defenses.stages import Sign
from defenses.step import Facts, Gradients, Step


@dataclass(frozen=True)
class GradientSigns(Defense):
    """Share of each entry the sign, -1, 0 or 1 (signSGD; Bernstein et al., ICML 2018, algorithm 1).

    What a server makes of the signs of several clients (their majority, algorithm 3) is its own affair. There is no strength to
    sweep: the curve is a point.
    """

    name: ClassVar[str] = "sign"
    summary: ClassVar[str] = "of each entry of the gradient the sign alone"
    paper: ClassVar[str] = "Bernstein et al., ICML 2018"

    def transform_gradients(self, gradients: Gradients, step: Step) -> Gradients:
        return {name: g.sign() for name, g in gradients.items()}

    def release(self, shared: Mapping[str, Tensor | None], facts: Facts) -> dict[str, Release]:
        return dict.fromkeys(shared, Release((Sign(),)))
