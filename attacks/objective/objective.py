"""What gradient matching minimises: a cost of the compared gradients, under what the attacker knows, and further terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.objective.comparison import Comparison, Surprise, layer_of
from attacks.objective.costs import Cosine, Cost
from attacks.objective.parts import parts
from attacks.objective.term import Term
from defenses.support.upload import upload


@dataclass(frozen=True)
class Objective:
    """An objective of gradient matching; layers are named as modules are ("body.0"), parameters as gradients are.

    Args:
        cost: of the compared gradients.
        terms: what is added to it.
        weights: of layers, >= 0; those not named have weight 1.
        layers: the only layers to compare; all by default.
        masks: parameter name to [N, *parameter.shape], true where the gradients are compared; parameters not named are compared
            everywhere. Masked gradients of more than a few images and positions are formed for each victim, which costs linear
            layers the engine's advantage.
        passes: parameter name to what a candidate's own gradient [S, *parameter.shape] goes through before it is compared; it
            has to be formed for that.
        judges: parameter name to how unlikely the observed gradient is for a candidate's own [S, *parameter.shape], after what it
            goes through; it has to be formed for that.
        codes: [N, B, K] for each stochastic layer: what it sampled, which is used in place of samples of the attacker's own.
        sample_prior: where the samples of the stochastic layers are variables too, the weight of their improbability, >= 0; None
            where layers sample afresh in every evaluation, or codes are given.
        errors: [N, B, *output], the derivative of each image's loss by the model's output, where it is known: the candidate's
            gradient is that which follows from it, in place of the client's loss.

    Raises:
        ValueError: a weight that is no number >= 0.
    """

    cost: Cost = field(default_factory=Cosine)
    terms: tuple[Term, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[str, ...] | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    passes: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    judges: Mapping[str, Callable[[Tensor, Tensor], Surprise]] = field(default_factory=dict)
    codes: tuple[Tensor, ...] = ()
    sample_prior: float | None = None
    errors: Tensor | None = None

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"the weight of {name} must be a number >= 0, got {weight}")

    def check(self, gradients: Mapping[str, Tensor]) -> None:
        """Raise ValueError where a layer or mask does not fit the observed gradients [N, ...] by name."""
        layers = {layer_of(name) for name in gradients}
        if unknown := sorted({*self.weights, *(self.layers or ())} - layers):
            raise ValueError(f"no gradient was observed of the layers {unknown}; there are {sorted(layers)}")
        for name, mask in self.masks.items():
            if name not in gradients or mask.shape != gradients[name].shape:
                expected = list(gradients[name].shape) if name in gradients else f"one of {sorted(gradients)}"
                raise ValueError(f"the mask of {name} is {list(mask.shape)}, expected {expected}")
        if self.sample_prior is not None and self.codes:
            raise ValueError("codes are given, so that no samples are searched for")
        if not any(self.weight(name) > 0 for name in gradients):
            raise ValueError("every layer has weight 0, so nothing is compared")

    def select(self, positions: Sequence[int]) -> Objective:
        """The objective for some of the victims only."""
        def some(tensor: Tensor) -> Tensor:
            return tensor[upload(list(positions), tensor.device, torch.long)]

        return replace(self, masks={name: some(mask) for name, mask in self.masks.items()}, codes=tuple(map(some, self.codes)),
                       errors=None if self.errors is None else some(self.errors),
                       terms=with_tensors(self.terms, [some(tensor) for tensor in tensors(self.terms)]))

    def same_as(self, other: Objective) -> bool:
        """Whether both are the same computation."""
        return _same(self, other)

    def well_conditioned(self) -> Objective:
        """The same comparisons under a cost that does not blow up their rounding."""
        return replace(self, cost=self.cost.well_conditioned())

    def weight(self, parameter: str) -> float:
        """Of the layer of a parameter; 0 where it is not compared."""
        layer = layer_of(parameter)
        return 0.0 if self.layers is not None and layer not in self.layers else self.weights.get(layer, 1.0)

    def __call__(self, compared: Mapping[str, Comparison], observed: Mapping[str, Tensor]) -> Tensor:
        """The cost [N] from the comparison and the squared norm of the observed gradient of each parameter of weight above 0."""
        return self.cost(compared, observed, {name: self.weight(name) for name in compared})


def tensors(terms: Sequence[Term]) -> list[Tensor]:
    """The tensors [N, ...] that terms hold, in a fixed order."""
    return [getattr(term, name) for term in terms for name in _tensor_fields(term)]


def with_tensors(terms: Sequence[Term], values: Sequence[Tensor]) -> tuple[Term, ...]:
    """The terms with other tensors, in the order of :func:`tensors`."""
    left = iter(values)
    return tuple(replace(term, **{name: next(left) for name in _tensor_fields(term)}) for term in terms)  # type: ignore[arg-type]


def _tensor_fields(term: Term) -> list[str]:
    return [place.name for place in fields(term) if isinstance(getattr(term, place.name), Tensor)]


def squared_norms(gradient: Tensor, mask: Tensor | None) -> Tensor:
    """|G|^2 [N] of the gradients [N, ...] of one parameter, over the entries that a mask leaves."""
    # A part at a time, in one place: the squares of all would take as much memory as the gradients, also one after another, where
    # the allocator finds no use for the gaps.
    some = parts(gradient)
    space, whole, at = torch.empty_like(some[0]), gradient.new_empty(len(gradient)), 0
    for own in some:
        place = slice(at, at := at + len(own))
        square = torch.mul(own, own, out=space[: len(own)])
        square = square if mask is None else square * mask[place]
        whole[place] = square.sum() if len(own) == 1 else square.reshape(len(own), -1).sum(1)
    return whole


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if is_dataclass(a):
        return all(_same(getattr(a, place.name), getattr(b, place.name)) for place in fields(a))
    return bool(a == b)
