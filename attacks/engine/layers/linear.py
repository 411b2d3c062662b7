"""Linear layers."""

from __future__ import annotations

from torch import Size, Tensor, nn

from attacks.engine.kernels.products import Matrices
from attacks.engine.layers import outer_products
from attacks.engine.layers.rule import Formed, Observed, Rule, formed, rule
from attacks.engine.rows import FormedRows, Rows, rows_of
from attacks.objective.comparison import Comparison


@rule(nn.Linear)
class LinearRule(Rule):
    """Input [S * B, ..., d] and error [S * B, ..., k]; positions beside the batch count like further images."""

    def __init__(self, layer: nn.Module, observed: Observed, a: Size, delta: Size) -> None:
        self._slots = observed.slots
        self._bias = formed(observed, "bias")
        self._weight: dict[str, Formed] = {}
        self._matrices: tuple[Matrices, Matrices | None] | None = None
        positions = a[:-1].numel()
        if "weight" in observed.gradients and outer_products.cheaper_unformed(
                positions, delta[-1], a[-1], masked="weight" in observed.masks):
            self._matrices = observed.matrices(positions)
        else:
            self._weight = formed(observed, "weight")

    @staticmethod
    def rows(layer: nn.Module, a: Tensor, delta: Tensor) -> dict[str, Rows]:
        a, delta = a.reshape(len(a), -1, a.shape[-1]), delta.reshape(len(a), -1, delta.shape[-1])
        return {"weight": rows_of(a, delta), "bias": FormedRows(delta.sum(1))}

    def __call__(self, a: Tensor, delta: Tensor) -> dict[str, Comparison]:
        slots = len(self._slots)
        a, delta = a.reshape(slots, -1, a.shape[-1]), delta.reshape(slots, -1, delta.shape[-1])
        compared = {name: compare(delta.sum(1)) for name, compare in self._bias.items()}
        compared.update({name: compare(delta.mT @ a) for name, compare in self._weight.items()})
        if self._matrices is not None:
            compared["weight"] = outer_products.unformed(a, delta, *self._matrices)
        return compared
