"""The convolutional network of the first attacks. This is the file to copy for a model of your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from benchmark.models.base import Model
from defenses.support import checks

_ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(frozen=True)
class LeNet(Model):
    """LeNet as in Deep Leakage from Gradients, for any image size.

    Args:
        activation: ``sigmoid`` as there, ``tanh`` or ``relu``. Under DP-SGD, which clips each image's gradient, bounded ones train
            better (tempered sigmoids, of which tanh is one: Papernot et al., AAAI 2021).
    """

    name: ClassVar[str] = "lenet"
    summary: ClassVar[str] = "three 5x5 convolutions of 12 channels, strides 2, 2, 1; sigmoid, tanh or relu; linear"
    paper: ClassVar[str] = "Zhu et al., NeurIPS 2019"

    activation: str = "sigmoid"

    def __post_init__(self) -> None:
        checks.choice("activation", self.activation, tuple(_ACTIVATIONS))

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        c, h, w = image_shape
        # A 5x5 convolution with padding 2 and stride s maps a side of n to ceil(n / s); here twice s = 2.
        features = 12 * (-(-h // 4)) * (-(-w // 4))
        activation = _ACTIVATIONS[self.activation]
        return nn.Sequential(
            nn.Conv2d(c, 12, 5, stride=2, padding=2), activation(),
            nn.Conv2d(12, 12, 5, stride=2, padding=2), activation(),
            nn.Conv2d(12, 12, 5, stride=1, padding=2), activation(),
            nn.Flatten(), nn.Linear(features, classes))
