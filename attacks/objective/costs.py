"""Costs: one number for each victim from the comparisons of all parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks.objective.comparison import Comparison, layer_of, root, total


@dataclass(frozen=True)
class Cost:
    """What makes one number [N] of the comparisons of the parameters.

    ``distance`` says whether it takes |g - G|^2 of formed gradients, ``judges`` whether it goes by how unlikely what was shared is
    where a release says so by itself.
    """

    distance: ClassVar[bool] = False
    judges: ClassVar[bool] = False

    def __call__(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
        """From the comparison, the squared norm of the observed gradient [N] and the weight, above 0, of each parameter."""
        raise NotImplementedError

    def of_scale(self, *, clip: float | None, free: bool) -> Cost:
        """The cost where a candidate's gradient is scaled down to the norm ``clip``, or to what fits best where it is free."""
        return self

    def well_conditioned(self) -> Cost:
        """A cost of the same comparisons that does not blow up their rounding, by which two ways of computing them are compared."""
        return self


@dataclass(frozen=True)
class Cosine(Cost):
    """1 - <g, G> / (|g| |G|), 0 to 2 (Geiping et al., 2020, eq. 4); weights are those of a layer's inner products.
    No scale changes it.

    Args:
        per_layer: the cosine of each layer by itself, averaged by the weights, instead of one over all.
    """


    per_layer: bool = False

    def __call__(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
        if not self.per_layer:
            return one_minus_cosine(*sums(compared, observed, weights))
        costs, whole = [], 0.0
        for layer in dict.fromkeys(layer_of(name) for name in compared):
            own = {name: c for name, c in compared.items() if layer_of(name) == layer}
            weight = weights[next(iter(own))]
            costs.append(weight * one_minus_cosine(*sums(own, observed, weights)))
            whole += weight
        return total(costs) / whole


@dataclass(frozen=True)
class Euclidean(Cost):
    """|s g - G|^2 (Zhu et al., 2019). In float32 it is known up to 1e-7 |G|^2 for layers whose gradient is never formed.

    Args:
        clip: the norm to which a candidate's whole gradient is scaled down where it is longer, or None.
        free_scale: whether s is the scale that fits best, instead of 1.
        nats: what a nat counts, of parameters whose release has a likelihood of its own, which takes the place of the distance.
    """

    distance: ClassVar[bool] = True
    judges: ClassVar[bool] = True

    clip: float | None = None
    free_scale: bool = False
    nats: float = 1.0

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be a number > 0, got {self.clip}")

    def of_scale(self, *, clip: float | None, free: bool) -> Cost:
        return replace(self, clip=clip, free_scale=free)

    def __call__(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
        judged = [c.surprise.nats for c in compared.values() if c.surprise is not None]
        compared = {name: c for name, c in compared.items() if c.surprise is None}
        if judged:
            beside = self.nats * total(judged)
            return beside + self(compared, observed, weights) if compared else beside
        if self.clip is None and not self.free_scale:
            return total([weights[name] * (c.squared - 2 * c.product + observed[name] if c.distance is None else c.distance)
                          for name, c in compared.items()])
        product, squared, own = sums(compared, observed, weights)
        if self.free_scale:
            scale = product / squared.clamp_min(torch.finfo(squared.dtype).tiny)
        else:
            assert self.clip is not None
            scale = (self.clip / root(total([c.squared for c in compared.values()]))).clamp_max(1)
        return scale.square() * squared - 2 * scale * product + own


def sums(compared: Mapping[str, Comparison], observed: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[Tensor, ...]:
    """<g, G>, |g|^2 and |G|^2 over some parameters by their weights, [N] each."""
    terms = []
    for name, c in compared.items():
        plain = (c.product, c.squared, observed[name])
        terms.append(plain if weights[name] == 1 else tuple(weights[name] * term for term in plain))
    return tuple(total(of_all) for of_all in zip(*terms, strict=True))


def one_minus_cosine(product: Tensor, squared_candidate: Tensor, squared_observed: Tensor) -> Tensor:
    """1 - <a, b> / (|a| |b|) from the inner product and the squared norms; 1 where either gradient is zero."""
    # Each norm has its own root, as their product can underflow.
    return 1 - product / (root(squared_candidate) * root(squared_observed))
