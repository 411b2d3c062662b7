"""Normalisation layers that treat each image by itself."""

from __future__ import annotations

from torch import Size, Tensor, nn
from torch.nn import functional as F

from attacks.engine.layers.rule import Observed, Rule, formed, rule
from attacks.engine.rows import FormedRows, Rows
from attacks.objective.comparison import Comparison


@rule(nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)
class NormalisationRule(Rule):
    """Batch norm with running statistics, group norm and layer norm: the input normalised, times the error, per channel."""

    @staticmethod
    def suits(layer: nn.Module) -> bool:
        # Batch norm without running statistics sees other images too.
        return not isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) or not (layer.training or layer.running_mean is None)

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        self._slots, self._layer = observed.slots, layer
        self._compare = formed(observed, "weight", "bias")

    @staticmethod
    def rows(layer: nn.Module, a: Tensor, delta: Tensor) -> dict[str, Rows]:
        return {name: FormedRows(value.flatten(1)) for name, value in _summed(layer, a, delta, len(a)).items()}

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        summed = _summed(self._layer, a, delta, len(self._slots))
        return {name: compare(summed[name]) for name, compare in self._compare.items()}


def _summed(layer: nn.Module, a: Tensor, delta: Tensor, count: int) -> dict[str, Tensor]:
    """The gradients of weight and bias of each of ``count`` groups of images."""
    if isinstance(layer, nn.LayerNorm):
        plain, kept = F.layer_norm(a, layer.normalized_shape, eps=layer.eps), len(layer.normalized_shape)
        summed = list(range(1, a.dim() + 1 - kept))
    else:
        if isinstance(layer, nn.GroupNorm):
            plain = F.group_norm(a, layer.num_groups, eps=layer.eps)
        else:
            assert isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))
            plain = F.batch_norm(a, layer.running_mean, layer.running_var, training=False, eps=layer.eps)
        summed = [1, *range(3, a.dim() + 1)]
    return {name: value.unflatten(0, (count, -1)).sum(summed) for name, value in (("weight", plain * delta), ("bias", delta))}
