"""A network of linear layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from benchmark.models.base import Model


@dataclass(frozen=True)
class MLP(Model):
    """Two hidden layers of 1024, as in PRECODE's experiments."""

    name: ClassVar[str] = "mlp"
    summary: ClassVar[str] = "flatten, linear 1024, linear 1024, linear classes; ReLU"
    paper: ClassVar[str] = "Scheliga et al., WACV 2022"

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(image_shape), 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(),
            nn.Linear(1024, classes))
