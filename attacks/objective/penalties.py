"""Terms of an objective that read what enters some layers: features that the attacker knows, statistics of batch norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def watching(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What enters the layers in the forward passes within the context, by name."""
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


def feature_distance(entered: Tensor, known: Tensor) -> Tensor:
    """Mean squared difference of features [S * B, ...] to the known ones [S, B, d], relative to the variance of the known: [S]."""
    found = entered.reshape(known.shape).flatten(1)
    target = known.flatten(1)
    variance = target.var(1)
    return (found - target).square().mean(1) / torch.where(variance > 0, variance, 1)  # all equal where nothing of them is known


def statistics_distance(layers: Sequence[nn.Module], entered: Sequence[Tensor], slots: int) -> Tensor:
    """Distances of the mean and the variance of each victim's images, per channel, to a batch norm's running ones, added over
    the layers: [S] (Yin et al., CVPR 2021)."""
    total = entered[0].new_zeros(slots)
    for layer, values in zip(layers, entered, strict=True):
        own = values.unflatten(0, (slots, -1)).transpose(1, 2).flatten(2)  # [S, C, B * positions]
        mean, variance = own.mean(2), own.var(2, unbiased=False)
        for found, running in ((mean, layer.running_mean), (variance, layer.running_var)):
            total = total + torch.linalg.vector_norm(found - running, dim=1)
    return total


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The batch-norm layers with running statistics, by name."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds) and layer.running_mean is not None}
