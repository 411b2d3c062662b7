"""The convolutional network of the first attacks. This is the file to copy for a model of your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from benchmark.models.base import Model


@dataclass(frozen=True)
class LeNet(Model):
    """LeNet as in Deep Leakage from Gradients, for any image size."""

    name: ClassVar[str] = "lenet"
    summary: ClassVar[str] = "three 5x5 convolutions of 12 channels, strides 2, 2, 1; sigmoid; linear"
    paper: ClassVar[str] = "Zhu et al., NeurIPS 2019"

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        c, h, w = image_shape
        # A 5x5 convolution with padding 2 and stride s maps a side of n to ceil(n / s); here twice s = 2.
        features = 12 * (-(-h // 4)) * (-(-w // 4))
        return nn.Sequential(
            nn.Conv2d(c, 12, 5, stride=2, padding=2), nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, stride=2, padding=2), nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, stride=1, padding=2), nn.Sigmoid(),
            nn.Flatten(), nn.Linear(features, classes))
