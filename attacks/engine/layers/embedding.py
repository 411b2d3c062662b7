"""Embeddings."""

from __future__ import annotations

from torch import Size, Tensor, nn
from torch.nn import functional as F

from attacks.engine.layers.rule import Observed, Rule, formed, rule
from attacks.objective.comparison import Comparison


@rule(nn.Embedding)
class EmbeddingRule(Rule):
    """Indices [S * B, ...] and error [S * B, ..., d]: each error is added to the row of its index."""

    @staticmethod
    def suits(layer: nn.Module) -> bool:
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        assert isinstance(layer, nn.Embedding)
        self._slots, self._rows, self._padding = observed.slots, layer.num_embeddings, layer.padding_idx
        self._compare = formed(observed, "weight")

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        slots = len(self._slots)
        chosen = F.one_hot(a.reshape(slots, -1), self._rows).to(delta.dtype)
        if self._padding is not None:
            chosen[..., self._padding] = 0  # the row of padding gets no gradient
        gradient = chosen.mT @ delta.reshape(slots, -1, delta.shape[-1])
        return {name: compare(gradient) for name, compare in self._compare.items()}
