"""The ReLU network of four convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from benchmark.models.base import Model
from benchmark.models.convolutions import ACTIVATIONS, convolutional
from defenses.support import checks


@dataclass(frozen=True)
class CNN(Model):
    """The four convolutions of Soteria's experiments on DLG (Sun et al., CVPR 2021; their released code calls it LeNet), for any
    image size: 768 features of a CIFAR image enter the linear layer.

    There activations are sigmoids; here they are ReLUs unless it is said otherwise, as in the networks that are attacked by signed
    Adam (Geiping et al., NeurIPS 2020; GradAttack of Huang et al., NeurIPS 2021), which have six or more convolutions, of 3x3.

    Args:
        width: channels of each convolution.
        activation: ``relu``, ``sigmoid`` as in Soteria's experiments, or ``tanh``.
    """

    name: ClassVar[str] = "cnn"
    summary: ClassVar[str] = "four 5x5 convolutions, strides 2, 2, 1, 1; relu, sigmoid or tanh; linear"
    paper: ClassVar[str] = "Sun et al., CVPR 2021"

    width: int = 12
    activation: str = "relu"

    def __post_init__(self) -> None:
        checks.whole("width", self.width, at_least=1)
        checks.choice("activation", self.activation, tuple(ACTIVATIONS))

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return convolutional(image_shape, classes, width=self.width, strides=(2, 2, 1, 1), activation=self.activation)
