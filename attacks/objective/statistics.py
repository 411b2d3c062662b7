"""Batch statistics near to the running ones, which a model with batch norm tells (Yin et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attacks.objective.term import LayerTerm


class Statistics(LayerTerm):
    """The distances of the mean and the variance of a victim's images, per channel, to a batch norm's running ones, added over the
    layers."""

    def layers(self, module: nn.Module) -> dict[str, nn.Module]:
        return batch_norms(module)

    def distance(self, module: nn.Module, entered: Mapping[str, Tensor], victims: int) -> Tensor:
        total = next(iter(entered.values())).new_zeros(victims)
        for name, layer in batch_norms(module).items():
            own = entered[name].unflatten(0, (victims, -1)).transpose(1, 2).flatten(2)  # [N, C, B * positions]
            mean, variance = own.mean(2), own.var(2, unbiased=False)
            for found, running in ((mean, layer.running_mean), (variance, layer.running_var)):
                total = total + torch.linalg.vector_norm(found - running, dim=1)
        return total


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The batch-norm layers with running statistics, by name."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds) and layer.running_mean is not None}
