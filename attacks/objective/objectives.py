"""What gradient matching minimises, from the comparison of each parameter's gradient with the observed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from defenses.support.upload import upload

COSTS = ("cosine", "euclidean")
STORAGES = ("factored", "dense", "bfloat16")
_WEIGHTS = ("total_variation", "feature_weight", "statistics", "energy", "anchor_weight")


class Comparison(NamedTuple):
    """Of a candidate's gradient g with the observed gradient G of one parameter, per victim."""

    product: Tensor  #: <g, G>
    squared: Tensor  #: |g|^2
    distance: Tensor | None = None  #: |g - G|^2 where g is formed; otherwise it follows from the other two.


@dataclass(frozen=True)
class Objective:
    """An objective of gradient matching; layers are named as modules are ("body.0"), parameters as gradients are.

    Args:
        cost: ``cosine``: 1 - <g, G> / (|g| |G|), 0 to 2 (Geiping et al., 2020, eq. 4); ``euclidean``: |g - G|^2 (Zhu et al.,
            2019). In float32 the latter is known up to 1e-7 |G|^2 for layers whose gradient is never formed.
        total_variation: weight of the prior on the normalised images, >= 0.
        per_layer: the cosine of each layer by itself, averaged by the weights, instead of one cosine over all.
        weights: of layers, >= 0; those not named have weight 1. In one cosine over all they weigh the inner product of the layer.
        layers: the only layers to compare; all by default.
        masks: parameter name to [N, *parameter.shape], true where the gradients are compared; parameters not named are compared
            everywhere. Masked gradients of more than a few images and positions are formed for each victim, which costs linear
            layers the engine's advantage.
        storage: how observed gradients of large layers are kept: ``factored``, without loss, as a product of thin matrices where
            their rank allows it; ``dense``, as they are; ``bfloat16``, rounded to eight bits, half the memory (sums in float32).
        codes: [N, B, K] for each stochastic layer: what it sampled, which is used in place of samples of the attacker's own.
        features: module name to what entered the module at the client, [N, B, d]; the mean squared difference of what the candidate
            lets enter, relative to the variance of the features, is added with ``feature_weight``.
        statistics: weight of the distance to the running statistics of batch norm (Yin et al., CVPR 2021), >= 0.
        energy: weight of the squared Euclidean norm of the normalised images, as a mean over their entries, >= 0.
        anchors: images [N, B, C, H, W] that the candidates are drawn to, or None.
        anchor_weight: of the squared distance to them, as a mean over the entries, >= 0.
        passes: parameter name to what a candidate's own gradient [S, *parameter.shape] goes through before it is compared; it
            has to be formed for that.
        clip: the norm to which a candidate's whole gradient is scaled down where it is longer, or None. For the cosine, which no
            scale changes, it does not matter.
        free_scale: whether the euclidean cost is that of the scale of a candidate's gradient that fits best.

    Raises:
        ValueError: an unknown cost, storage, or a weight that is no number >= 0.
    """

    cost: str = "cosine"
    total_variation: float = 0.0
    per_layer: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[str, ...] | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    storage: str = "factored"
    codes: tuple[Tensor, ...] = ()
    features: Mapping[str, Tensor] = field(default_factory=dict)
    feature_weight: float = 1.0
    statistics: float = 0.0
    energy: float = 0.0
    anchors: Tensor | None = None
    anchor_weight: float = 0.0
    passes: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    clip: float | None = None
    free_scale: bool = False

    def __post_init__(self) -> None:
        for name, known in (("cost", COSTS), ("storage", STORAGES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        own = {name: getattr(self, name) for name in _WEIGHTS}
        for name, weight in {**own, **self.weights}.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"the weight of {name} must be a number >= 0, got {weight}")
        if self.per_layer and self.cost != "cosine":
            raise ValueError("per_layer is for the cosine; the euclidean cost is a sum over layers already")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be a number > 0, got {self.clip}")

    def check(self, gradients: Mapping[str, Tensor]) -> None:
        """Raise ValueError where a layer or mask does not fit the observed gradients [N, ...] by name."""
        layers = {layer_of(name) for name in gradients}
        if unknown := sorted({*self.weights, *(self.layers or ())} - layers):
            raise ValueError(f"no gradient was observed of the layers {unknown}; there are {sorted(layers)}")
        for name, mask in self.masks.items():
            if name not in gradients or mask.shape != gradients[name].shape:
                expected = list(gradients[name].shape) if name in gradients else f"one of {sorted(gradients)}"
                raise ValueError(f"the mask of {name} is {list(mask.shape)}, expected {expected}")
        if not any(self.weight(name) > 0 for name in gradients):
            raise ValueError("every layer has weight 0, so nothing is compared")

    def select(self, positions: Sequence[int]) -> Objective:
        """The objective for some of the victims only."""
        def some(tensor: Tensor) -> Tensor:
            return tensor[upload(list(positions), tensor.device, torch.long)]

        return replace(self, masks={name: some(mask) for name, mask in self.masks.items()}, codes=tuple(map(some, self.codes)),
                       features={name: some(known) for name, known in self.features.items()},
                       anchors=None if self.anchors is None else some(self.anchors))

    def same_as(self, other: Objective) -> bool:
        """Whether both are the same computation."""
        return type(self) is type(other) and all(
            _same(getattr(self, place.name), getattr(other, place.name)) for place in fields(self))

    def well_conditioned(self) -> Objective:
        """An objective of the same comparisons that does not blow up their rounding, by which two ways of computing them are
        compared."""
        return self

    def weight(self, parameter: str) -> float:
        """Of the layer of a parameter; 0 where it is not compared."""
        layer = layer_of(parameter)
        return 0.0 if self.layers is not None and layer not in self.layers else self.weights.get(layer, 1.0)

    def __call__(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor]) -> Tensor:
        """The cost from the comparison and the squared norm of the observed gradient of each parameter of weight above 0."""
        if self.cost == "euclidean" and (self.clip is not None or self.free_scale):
            return self._scaled_distance(compared, observed)
        if self.cost == "euclidean":
            distances = [
                self.weight(name) * (c.squared - 2 * c.product + observed[name] if c.distance is None else c.distance)
                for name, c in compared.items()
            ]
            return total(distances)
        if not self.per_layer:
            return _cosine(*(total(terms) for terms in zip(*self._terms(compared, observed), strict=True)))
        costs, weights = [], 0.0
        for layer in dict.fromkeys(layer_of(name) for name in compared):
            own = {name: c for name, c in compared.items() if layer_of(name) == layer}
            weight = self.weight(next(iter(own)))
            costs.append(weight * _cosine(*(total(terms) for terms in zip(*self._terms(own, observed), strict=True))))
            weights += weight
        return total(costs) / weights

    def _scaled_distance(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor]) -> Tensor:
        """|s g - G|^2 for the scale s that clipping gives, or for the one of the lowest distance."""
        product, squared, own = (total(terms) for terms in zip(*self._terms(compared, observed), strict=True))
        if self.free_scale:
            scale = product / squared.clamp_min(torch.finfo(squared.dtype).tiny)
        else:
            assert self.clip is not None
            scale = (self.clip / _root(total([c.squared for c in compared.values()]))).clamp_max(1)
        return scale.square() * squared - 2 * scale * product + own

    def _terms(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        terms = []
        for name, c in compared.items():
            weight = self.weight(name)
            plain = (c.product, c.squared, observed[name])
            terms.append(plain if weight == 1 else (weight * plain[0], weight * plain[1], weight * plain[2]))
        return terms


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def layer_of(parameter: str) -> str:
    """The name of the module that holds a parameter; "" for the model itself."""
    return parameter.rpartition(".")[0]


def explicit(gradient: Tensor, observed: Tensor, mask: Tensor | None = None, *, distance: bool = True) -> Comparison:
    """Compare formed gradients [N, ...] with the observed ones (zero where masked); the distance if it is wanted."""
    if mask is not None:
        gradient = gradient * mask
    gradient, observed = gradient.flatten(1), observed.flatten(1)
    difference = gradient - observed if distance else None
    return Comparison(dot(gradient, observed), dot(gradient, gradient), None if difference is None else dot(difference, difference))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [N] of vectors [N, n].

    Summed by torch's tree, to 1e-7 in float32 at any length. A product of matrices would save the tensor of products, but it errs
    by 3e-6 at n = 3,600 and 3e-3 at three million, where one minus the cosine of a good candidate is 1e-5.
    """
    return (a * b).sum(1)


def squared_norms(gradients: Mapping[str, Tensor], objective: Objective) -> dict[str, Tensor]:
    """|G|^2 [N] of each parameter that is compared, over the positions that are."""
    squares: dict[str, Tensor] = {}
    for name, gradient in gradients.items():
        if objective.weight(name) > 0:
            mask = objective.masks.get(name)
            # One victim at a time, in one place: the squares of all would take as much memory as the gradients, also one after
            # another, where the allocator finds no use for the gaps.
            square, total = torch.empty_like(gradient[:1]), gradient.new_empty(len(gradient))
            for i, own in enumerate(gradient.split(1)):
                torch.mul(own, own, out=square)
                total[i] = (square if mask is None else square * mask[i]).sum()
            squares[name] = total
    return squares


def _cosine(product: Tensor, squared_candidate: Tensor, squared_observed: Tensor) -> Tensor:
    """1 - <a, b> / (|a| |b|) from the inner product and the squared norms; 1 where either gradient is zero."""
    return 1 - product / (_root(squared_candidate) * _root(squared_observed))


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, one after another: the order in which ``torch.sum`` adds depends on how many victims there are."""
    return reduce(torch.add, terms)


def _root(squared: Tensor) -> Tensor:
    # Bounded away from zero, where the root has no derivative; each norm has its own root, as their product can underflow.
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
