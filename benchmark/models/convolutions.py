"""What the small convolutional networks have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

#: By the words of their parameter.
ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


def convolutional(image_shape: tuple[int, int, int], classes: int, *, width: int, strides: Sequence[int], activation: str
                  ) -> nn.Sequential:
    """5x5 convolutions with padding 2, each to ``width`` channels, by one stride and one activation each; and a linear layer."""
    channels, height, image_width = image_shape
    layers: list[nn.Module] = []
    for stride in strides:
        layers += [nn.Conv2d(channels, width, 5, stride=stride, padding=2), ACTIVATIONS[activation]()]
        channels = width
    # Such a convolution of stride s maps a side of n to ceil(n / s), and several to ceil(n / their product).
    sides = [-(-side // math.prod(strides)) for side in (height, image_width)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * math.prod(sides), classes))
