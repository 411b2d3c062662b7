"""The convolutional network of the first attacks. This is the file to copy for a model of your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from benchmark.models.base import Model
from benchmark.models.convolutions import ACTIVATIONS, convolutional
from defenses.support import checks


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
        checks.choice("activation", self.activation, tuple(ACTIVATIONS))

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return convolutional(image_shape, classes, width=12, strides=(2, 2, 1), activation=self.activation)
