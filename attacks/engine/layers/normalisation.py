"""Normalisation layers that treat each image by itself."""

from __future__ import annotations

from torch import Size, Tensor, nn
from torch.nn import functional as F

from attacks.engine.layers.rule import Observed, Rule, formed, rule
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

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        layer = self._layer
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
        by_name = {"weight": plain * delta, "bias": delta}
        return {
            name: compare(by_name[name].unflatten(0, (len(self._slots), -1)).sum(summed)) for name, compare in self._compare.items()
        }
