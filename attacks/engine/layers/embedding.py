"""Embeddings."""

from __future__ import annotations

from torch import Size, Tensor, nn
from torch.nn import functional as F

from attacks.engine.layers.rule import Observed, Rule, formed, rule
from attacks.engine.rows import FormedRows, Rows
from attacks.objective.comparison import Comparison


@rule(nn.Embedding)
class EmbeddingRule(Rule):
    """Indices [S * B, ...] and error [S * B, ..., d]: each error is added to the row of its index."""

    @staticmethod
    def suits(layer: nn.Module) -> bool:
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        assert isinstance(layer, nn.Embedding)
        self._slots, self._layer = observed.slots, layer
        self._compare = formed(observed, "weight")

    @staticmethod
    def rows(layer: nn.Module, a: Tensor, delta: Tensor) -> dict[str, Rows]:
        assert isinstance(layer, nn.Embedding)
        return {"weight": FormedRows(_by_row(layer, a, delta, len(a)).flatten(1))}

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        gradient = _by_row(self._layer, a, delta, len(self._slots))
        return {name: compare(gradient) for name, compare in self._compare.items()}


def _by_row(layer: nn.Embedding, a: Tensor, delta: Tensor, count: int) -> Tensor:
    """The gradient of each of ``count`` groups of images."""
    chosen = F.one_hot(a.reshape(count, -1), layer.num_embeddings).to(delta.dtype)
    if layer.padding_idx is not None:
        chosen[..., layer.padding_idx] = 0  # the row of padding gets no gradient
    return chosen.mT @ delta.reshape(count, -1, delta.shape[-1])
