"""Running a model as it is evaluated, without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """The model in evaluation mode: dropout is off, and batch norm neither reads nor writes statistics of what runs. Every layer is
    put back into its mode on leaving."""
    training = [layer for layer in module.modules() if layer.training]
    module.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True
