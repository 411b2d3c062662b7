"""What enters layers in a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def watching(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What enters the layers in the forward passes within the context, by name, in the order in which they run."""
    entered: dict[str, Tensor] = {}

    def watcher(name: str) -> Any:
        def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            entered[name] = arguments[0]

        return note

    handles = [layer.register_forward_pre_hook(watcher(name)) for name, layer in layers.items()]
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()
