"""Looking at a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from defenses.stochastic import sampling, stochastic_layers


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within the context the model computes what does not depend on chance or on the other images of a batch: every layer is in
    evaluation mode, and stochastic ones give the mean of their code. Each is put back into its mode on leaving. Derivatives can be
    taken of any order, and in forward mode, which the fused kernels of attention do not have."""
    layers, training = list(stochastic_layers(module).values()), [layer for layer in module.modules() if layer.training]
    try:
        module.eval()
        with sampling(layers), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for layer in training:
            layer.training = True
