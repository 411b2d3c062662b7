"""Layers that sample in the forward pass, and how they are made to sample something given.

A layer of a defense that is stochastic speaks for itself by this protocol: whoever runs the model (an attack, a test) finds such
layers by :func:`stochastic_layers` and knows no defense by name. Dropout that is a model's own is not meant: it is off where a
model is evaluated, and is part of no defense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class StochasticLayer(nn.Module):
    """A layer that draws a sample of each image, and makes a code of it and of the features that enter.

    As it stands here the sample is Gaussian, epsilon, and the code z = mu + sigma * epsilon, in evaluation as in training; a
    subclass calls :meth:`sample` once in its forward pass, and sets ``divergence`` if a regularizer is to read it. One whose sample
    is of another distribution says so by what it overrides, and sets ``shape``.

    Attributes:
        epsilon: None, or the samples [B, *shape] to use in the next forward passes instead of fresh ones, or one number for all
            entries.
        code: None, or the codes [B, *shape] to which the features of the next forward passes are to come, whatever they are.
        taken: the samples [B, *shape] by which they came to them, here (z - mu) / sigma; None before.
        shape: of the sample of one image; None before the first forward pass.
        divergence: of each image [B], from the last forward pass; None after it was read.
    """

    #: Names of the sublayers that the features enter and that the code enters, "" where there is none: for one image the gradients
    #: of a linear layer with bias tell its input exactly. Features are named where it is linear only.
    reads_features: ClassVar[str] = ""
    reads_code: ClassVar[str] = ""
    #: Whether any features can have the code that is replayed, so that what comes behind says nothing more of the image.
    hides_features: ClassVar[bool] = True
    #: Whether it samples in evaluation too; else it is then deterministic, and samples for those only who know of it.
    samples_in_evaluation: ClassVar[bool] = True
    #: The least and the largest value of an entry of a sample, that is continuous or is relaxed to be.
    bounds: ClassVar[tuple[float, float]] = (-torch.inf, torch.inf)

    def __init__(self) -> None:
        super().__init__()
        self.epsilon: Tensor | float | None = None
        self.code: Tensor | None = None
        self.taken: Tensor | None = None
        self.shape: torch.Size | None = None
        self.divergence: Tensor | None = None

    @property
    def expected(self) -> float:
        """The mean of an entry of a sample."""
        return 0.0

    def drawn(self, noise: Tensor) -> Tensor:
        """Samples made of standard normal noise of their shape."""
        return noise

    def improbability(self, samples: Tensor) -> Tensor:
        """How improbable samples [N, ...] are, [N], in units of an entry: minus the logarithm of their density as a mean over the
        entries, up to a constant."""
        return 0.5 * samples.flatten(1).square().mean(1)

    def law(self, h: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation [B, *shape] of the code of features that enter; None where the sample is not Gaussian."""
        return None

    def denoised(self, code: Tensor, deviation: Tensor) -> Tensor:
        """A code that was read with errors of some standard deviation, as near to one that can be as the layer knows."""
        return code

    def told(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """What a code says of the features that entered, where codes do (see ``hides_features``): the features, and which of them
        it tells, both of its shape."""
        return code, torch.ones_like(code, dtype=torch.bool)

    def sample(self, mu: Tensor, sigma: Tensor) -> Tensor:
        """The code: the given one, one of the given sample, or of a fresh one from torch's global generator."""
        self.shape = mu.shape[1:]
        if self.code is not None:
            self.taken = (self.code - mu) / sigma
            return self.code
        return mu + sigma * (torch.randn_like(mu) if self.epsilon is None else self.epsilon)

    def take_divergence(self) -> Tensor:
        """The divergence [B] of the last forward pass; the layer forgets it, so that it keeps no graph alive."""
        if self.divergence is None:
            raise RuntimeError("the divergence is there once after each forward pass")
        divergence, self.divergence = self.divergence, None
        return divergence

    def __getstate__(self) -> dict[str, Any]:
        # A copy or pickle of the module must not carry the autograd graph of its last forward pass.
        return {**self.__dict__, "divergence": None, "taken": None}


def stochastic_layers(module: nn.Module) -> dict[str, StochasticLayer]:
    """All stochastic layers of a model by name, in the order of their registration."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, StochasticLayer)}


@contextmanager
def sampling(layers: Sequence[StochasticLayer], samples: Sequence[Tensor] | None = None, codes: Sequence[Tensor] = ()
             ) -> Iterator[None]:
    """Layers hand on the given codes within the context, or, where there are none, use the given samples; without both, the means
    of what they sample. Divergences that nobody has read are forgotten on leaving."""
    for i, layer in enumerate(layers):
        if codes:
            layer.code = codes[i]
        else:
            layer.epsilon = layer.expected if samples is None else samples[i]
    try:
        yield
    finally:
        for layer in layers:
            layer.epsilon = layer.code = layer.taken = layer.divergence = None


def samples_of_codes(layers: Sequence[StochasticLayer], codes: Sequence[Tensor], run: Callable[[], object]) -> list[Tensor]:
    """By which samples [B, *shape] of each layer the images of a forward pass come to the given codes.

    To the client they were constants, so that a gradient with respect to the parameters is taken in a pass that is given them. But
    they are functions of the images, and derivatives by these must not lose sight of that.

    Args:
        layers: all stochastic layers of the model.
        codes: [B, *shape] of each.
        run: the forward pass of B images.
    """
    with sampling(layers, codes=codes):
        run()
        taken = [layer.taken for layer in layers if layer.taken is not None]
    if len(taken) < len(layers):
        raise RuntimeError("a stochastic layer that a code is for did not run")
    return taken
