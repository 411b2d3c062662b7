"""Layers that sample in the forward pass, and how they are made to sample something given.

A layer of a defense that is stochastic speaks for itself by this protocol: whoever runs the model (an attack, a test) finds such
layers by :func:`stochastic_layers` and knows no defense by name. Dropout is not meant: it is off where a model is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class StochasticLayer(nn.Module):
    """A layer that samples a code z = mu + sigma * epsilon of each image, in evaluation as in training.

    A subclass calls :meth:`sample` once in its forward pass, and sets ``divergence`` if a regularizer is to read it.

    Args:
        size: K, numbers in a code.

    Attributes:
        epsilon: None, or the noise [B, K] to use in the next forward passes instead of a fresh sample.
        code: None, or the codes [B, K] to use in the next forward passes, as samples of whatever Gaussian is encoded: the noise is
            then the constant (z - mu) / sigma.
        divergence: of each image [B], from the last forward pass; None after it was read.
    """

    #: Names of the linear sublayers that the features enter and that the code enters, "" where there is none: for one image the
    #: gradients of a linear layer with bias tell its input exactly.
    reads_features: ClassVar[str] = ""
    reads_code: ClassVar[str] = ""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.epsilon: Tensor | None = None
        self.code: Tensor | None = None
        self.divergence: Tensor | None = None

    def sample(self, mu: Tensor, sigma: Tensor) -> Tensor:
        """The code: the given one, one of the given noise, or a fresh sample from torch's global generator."""
        if self.code is not None:
            epsilon = ((self.code - mu) / sigma).detach()
        else:
            epsilon = torch.randn_like(mu) if self.epsilon is None else self.epsilon
        return mu + sigma * epsilon

    def take_divergence(self) -> Tensor:
        """The divergence [B] of the last forward pass; the layer forgets it, so that it keeps no graph alive."""
        if self.divergence is None:
            raise RuntimeError("the divergence is there once after each forward pass")
        divergence, self.divergence = self.divergence, None
        return divergence

    def __getstate__(self) -> dict[str, Any]:
        # A copy or pickle of the module must not carry the autograd graph of its last forward pass.
        return {**self.__dict__, "divergence": None}


def stochastic_layers(module: nn.Module) -> dict[str, StochasticLayer]:
    """All stochastic layers of a model by name, in the order of their registration."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, StochasticLayer)}


def no_noise(layers: Sequence[StochasticLayer], images: Tensor) -> list[Tensor]:
    """Noise of zero for each layer, for images [B, ...]: with it a code is the mean of what was encoded."""
    return [images.new_zeros(len(images), layer.size) for layer in layers]


@contextmanager
def sampling(layers: Sequence[StochasticLayer], noise: Sequence[Tensor], codes: Sequence[Tensor] = ()) -> Iterator[None]:
    """Layers use the given codes within the context, or, where there are none, the given noise. Divergences that nobody has read
    are forgotten on leaving."""
    for i, layer in enumerate(layers):
        if codes:
            layer.code = codes[i]
        else:
            layer.epsilon = noise[i]
    try:
        yield
    finally:
        for layer in layers:
            layer.epsilon = layer.code = layer.divergence = None
