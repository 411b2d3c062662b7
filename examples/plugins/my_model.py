"""A model of your own, for any image size and number of classes. See run.sh."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from benchmark.models import Model


@dataclass(frozen=True)
class Narrow(Model):
    """Two linear layers."""

    name = "narrow"
    summary = "two linear layers"

    width: int = 64  # a parameter: --model "narrow(width=32)"

    def build(self, image_shape, classes):
        c, h, w = image_shape
        return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, self.width), nn.Tanh(), nn.Linear(self.width, classes))
